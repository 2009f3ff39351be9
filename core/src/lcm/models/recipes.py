"""Recipes: which format each tensor of a quantised model gets, by the names that llama.cpp gave them.

What decides is how much a tensor's error costs: values and the way out of an MLP more than the rest, the
first and last layers more than the others, and the head most of all.
"""

from lcm.errors import UsageError
from lcm.formats import FORMATS

# A recipe: the format of most matrices, that of the ones that matter more, and which those are.
RECIPES = {
    "f32": ("f32", "f32", "none"),
    "f16": ("f16", "f16", "none"),
    "bf16": ("bf16", "bf16", "none"),
    "q8_0": ("q8_0", "q8_0", "none"),
    "q4_0": ("q4_0", "q4_0", "none"),
    "q4_1": ("q4_1", "q4_1", "none"),
    "q5_0": ("q5_0", "q5_0", "none"),
    "q5_1": ("q5_1", "q5_1", "none"),
    "q4_k_s": ("q4_k", "q5_k", "first"),
    "q4_k_m": ("q4_k", "q6_k", "more"),
    "q5_k_s": ("q5_k", "q5_k", "none"),
    "q5_k_m": ("q5_k", "q6_k", "more"),
    "q6_k": ("q6_k", "q6_k", "none"),
}
KEPT = ("position_embd.weight", "ffn_gate_inp.weight")  # small, and their errors cost much
# What takes the place of a format where rows are no whole blocks of 256.
NARROW = {"q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}


def format_for(recipe: str, name: str, shape: tuple[int, ...], *, layers: int, tied: bool) -> str:
    """The format of a GGUF file's tensor; `tied` says that the embedding is the head too."""
    if recipe not in RECIPES:
        raise UsageError(f"no recipe {recipe!r}; there are: {', '.join(RECIPES)}")
    usual, better, where = RECIPES[recipe]
    if len(shape) < 2 or name.endswith((".bias", *KEPT)):
        return "f32"
    if FORMATS[usual].numbers == 1:
        return usual
    stem = name.removesuffix(".weight")
    if stem == "output" or (stem == "token_embd" and tied):
        wanted = "q8_0" if usual == "q8_0" else "q6_k"
    else:
        part, _, layer = stem.rpartition(".")[2].removesuffix("_exps"), *stem.partition(".")[1:]
        number = int(layer.partition(".")[0]) if stem.startswith("blk.") else 0
        wanted = better if part in MATTERING and _matters(where, number, layers) else usual
    return _fitting(wanted, shape[-1])


MATTERING = ("attn_v", "ffn_down")


def _matters(where: str, layer: int, layers: int) -> bool:
    if where == "first":
        return layer < layers // 8
    edge = layer < layers // 8 or layer >= 7 * layers // 8
    return where == "more" and (edge or (layer - layers // 8) % 3 == 2)


def _fitting(format: str, columns: int) -> str:
    """The format, or the nearest whose blocks fill the rows; f16 where none does."""
    for candidate in (format, NARROW.get(format, "f16"), "f16"):
        if columns % FORMATS[candidate].numbers == 0:
            return candidate
    raise AssertionError("a row is always whole numbers")
