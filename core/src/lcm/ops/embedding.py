"""Embedding: from token ids to vectors."""

from lcm.ops.op import op
from lcm.ops.signature import f32, i32, weights


@op(touched={"weight": "rows * width"})
def embedding(
    weight: weights["vocabulary width"], ids: i32["*rows"].below("vocabulary")
) -> f32["*rows width"]:
    """weight[ids]."""
    y = weight.gather(ids)
    return y if y.format == "f64" else y.cast("f32")
