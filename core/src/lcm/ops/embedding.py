"""Embedding: from token ids to vectors."""

from lcm.formats.interleaved import INTERLEAVED
from lcm.ops.op import op
from lcm.ops.signature import f32, i32, stored


@op(touched={"weight": "rows * width"})
def embedding(
    weight: stored["vocabulary width"], ids: i32["*rows"].below("vocabulary")
) -> f32["*rows width"]:
    """weight[ids]."""
    rows = weight.cast("f32") if weight.format in INTERLEAVED else weight
    y = rows.gather(ids)
    return y if y.format == "f64" else y.cast("f32")
