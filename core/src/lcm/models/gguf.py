"""Models in GGUF files: what they call the keys of a `config.json` and the tensors of a checkpoint.

The names are llama.cpp's (gguf-py's constants), so that its files load here, and ours there.
"""

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import EllipsisType
from typing import Any

import numpy as np

from lcm import formats
from lcm.errors import FileError
from lcm.files.gguf import GgufFile
from lcm.files.refusal import brief
from lcm.files.sharded import ShardedWeights
from lcm.models.config import COUNTS
from lcm.models.scaling import Llama3, Scaling

File = GgufFile | ShardedWeights

# Keys behind the architecture's name: those of config.json.
KEYS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "rope.freq_base": "rope_theta",
}
REQUIRED = ("context_length", "embedding_length", "block_count", "attention.head_count")
# Tensors' names without their ending (.weight, .bias); {} is the number of the layer. A second one is that of
# an expert: those of a layer lie in one tensor, one behind the other.
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk.{}.attn_norm": "model.layers.{}.input_layernorm",
    "blk.{}.attn_q": "model.layers.{}.self_attn.q_proj",
    "blk.{}.attn_k": "model.layers.{}.self_attn.k_proj",
    "blk.{}.attn_v": "model.layers.{}.self_attn.v_proj",
    "blk.{}.attn_output": "model.layers.{}.self_attn.o_proj",
    "blk.{}.ffn_norm": "model.layers.{}.post_attention_layernorm",
    "blk.{}.ffn_gate": "model.layers.{}.mlp.gate_proj",
    "blk.{}.ffn_up": "model.layers.{}.mlp.up_proj",
    "blk.{}.ffn_down": "model.layers.{}.mlp.down_proj",
}


NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Dialect:
    """How GGUF files say what a `model_type`'s checkpoint says."""

    model_type: str
    keys: Mapping[str, str] = field(default_factory=lambda: KEYS)
    names: Mapping[str, str] = field(default_factory=lambda: NAMES)
    switches: Mapping[str, str] = field(default_factory=dict)  # true where the file has that tensor
    implied: Callable[[dict[str, Any]], dict[str, Any]] = lambda values: {}  # by the other keys
    pairs: bool = False  # the numbers that turn together lie side by side, not half a head apart
    ones: bool = False  # norms' weights are stored with 1 added

    def ours(self, name: str) -> str:
        """A checkpoint's name for this tensor, with {} for an expert's number; the same if it has none."""
        stem, dot, ending = name.rpartition(".")
        number = re.fullmatch(r"blk\.(\d+)\.(.+)", stem)
        found = self.names.get("blk.{}." + number[2] if number else stem)
        if found is None:
            return name
        return (found.replace("{}", number[1], 1) if number else found) + dot + ending

    def is_stack(self, name: str) -> bool:
        """Whether this tensor is one of each expert, one behind the other."""
        return self.ours(name) != name and "{}" in self.ours(name)

    def theirs(self, name: str) -> str:
        """A GGUF file's name for this parameter of a checkpoint, or for all experts' together."""
        stem, dot, ending = name.rpartition(".")
        general, numbers = NUMBER.sub("{}", stem), NUMBER.findall(stem)
        return self._by_ours[general].format(*numbers) + dot + ending

    @cached_property
    def _by_ours(self) -> dict[str, str]:
        return {ours: theirs for theirs, ours in self.names.items()}

    def heads(self, values: Mapping[str, Any]) -> dict[str, int]:
        """How many heads each of the projections has whose numbers lie in pairs."""
        if not self.pairs:
            return {}
        heads = values["num_attention_heads"]
        return {"q_proj": heads, "k_proj": values.get("num_key_value_heads") or heads}


def _gemma_scale(large: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What queries are divided by: a file does not say that the model of so many layers has another."""

    def scale(values: dict[str, Any]) -> dict[str, Any]:
        is_large = values["num_hidden_layers"] == large
        width = values["hidden_size"] // values["num_attention_heads"]
        return {"query_pre_attn_scalar": width if is_large else values["head_dim"]}

    return scale


GEMMA = NAMES | {
    "blk.{}.post_attention_norm": "model.layers.{}.post_attention_layernorm",
    "blk.{}.ffn_norm": "model.layers.{}.pre_feedforward_layernorm",
    "blk.{}.post_ffw_norm": "model.layers.{}.post_feedforward_layernorm",
}
NORMED = {
    "blk.{}.attn_q_norm": "model.layers.{}.self_attn.q_norm",
    "blk.{}.attn_k_norm": "model.layers.{}.self_attn.k_norm",
}



def _all_experts(values: dict[str, Any]) -> dict[str, Any]:
    """What all such files are taken to mean: experts in every layer, and shares that add up to 1."""
    return {"norm_topk_prob": True}


# By `general.architecture`.
DIALECTS = {
    "llama": Dialect(
        "llama", pairs=True,
        switches={"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_gate.bias"},
    ),
    "qwen2": Dialect("qwen2"),
    "qwen3": Dialect("qwen3", names=NAMES | NORMED),
    "qwen3moe": Dialect(
        "qwen3_moe", implied=_all_experts,
        keys=KEYS | {
            "expert_count": "num_experts", "expert_used_count": "num_experts_per_tok",
            "expert_feed_forward_length": "moe_intermediate_size",
        },
        names=NAMES | NORMED | {
            "blk.{}.ffn_gate_inp": "model.layers.{}.mlp.gate",
            "blk.{}.ffn_gate_exps": "model.layers.{}.mlp.experts.{}.gate_proj",
            "blk.{}.ffn_up_exps": "model.layers.{}.mlp.experts.{}.up_proj",
            "blk.{}.ffn_down_exps": "model.layers.{}.mlp.experts.{}.down_proj",
        },
    ),
    "gemma2": Dialect(
        "gemma2", names=GEMMA, ones=True, implied=_gemma_scale(46),
        keys=KEYS | {
            "attn_logit_softcapping": "attn_logit_softcapping",
            "final_logit_softcapping": "final_logit_softcapping",
        },
    ),
    "gemma3": Dialect("gemma3_text", names=GEMMA | NORMED, ones=True, implied=_gemma_scale(62)),
    "granite": Dialect(
        "granite", pairs=True,
        keys=KEYS | {
            "embedding_scale": "embedding_multiplier", "residual_scale": "residual_multiplier",
            "attention.scale": "attention_multiplier", "logit_scale": "logits_scaling",
        },
        switches={"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_gate.bias"},
    ),
    "starcoder2": Dialect(
        "starcoder2",
        keys=KEYS | {"attention.layer_norm_epsilon": "norm_epsilon"},
        names=NAMES | {
            "blk.{}.ffn_up": "model.layers.{}.mlp.c_fc", "blk.{}.ffn_down": "model.layers.{}.mlp.c_proj",
        },
        switches={"use_bias": "blk.0.attn_q.bias"},
    ),
    "phi3": Dialect(
        "phi3",
        names=NAMES | {
            "blk.{}.attn_qkv": "model.layers.{}.self_attn.qkv_proj",
            "blk.{}.ffn_up": "model.layers.{}.mlp.gate_up_proj",
        },
    ),
    "gpt2": Dialect(
        "gpt2",
        keys={
            "context_length": "n_positions", "embedding_length": "n_embd", "block_count": "n_layer",
            "feed_forward_length": "n_inner", "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        names={
            "token_embd": "transformer.wte", "position_embd": "transformer.wpe",
            "output_norm": "transformer.ln_f", "output": "lm_head",
            "blk.{}.attn_norm": "transformer.h.{}.ln_1", "blk.{}.attn_qkv": "transformer.h.{}.attn.c_attn",
            "blk.{}.attn_output": "transformer.h.{}.attn.c_proj", "blk.{}.ffn_norm": "transformer.h.{}.ln_2",
            "blk.{}.ffn_up": "transformer.h.{}.mlp.c_fc", "blk.{}.ffn_down": "transformer.h.{}.mlp.c_proj",
        },
    ),
}  # fmt: skip


def read_config(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: str,
    divisors: np.ndarray | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What a `config.json` would say of the model, whose tensors have these shapes.

    `divisors` is the tensor `DIVISORS`, if there is one: what each pair's rotary frequency is divided by.
    """
    name = _architecture(metadata, where)
    dialect = DIALECTS[name]
    found = {key: _number(metadata, f"{name}.{theirs}", where) for theirs, key in dialect.keys.items()}
    values = {key: value for key, value in found.items() if value is not None}
    values |= {key: tensor in shapes for key, tensor in dialect.switches.items()}
    values |= _scaling(metadata, name, where)
    embedding = "token_embd.weight"
    if len(shapes.get(embedding, ())) != 2:
        raise FileError(f"{where}: has no matrix {embedding!r}; it is no whole model")
    if missing := [key for key in REQUIRED if dialect.keys[key] not in values]:
        raise FileError(f"{where}: its metadata does not say '{name}.{missing[0]}'; convert the model again")
    values |= {
        "model_type": dialect.model_type,
        "vocab_size": shapes[embedding][0],
        "tie_word_embeddings": "output.weight" not in shapes,
    }
    try:
        if divisors is not None:
            values |= _llama3(divisors, values, where)
        return values | dialect.implied(values)
    except KeyError as error:
        raise FileError(f"{where}: its metadata does not say {error}; convert the model again") from None
    except ArithmeticError:
        raise FileError(f"{where}: its metadata says sizes that fit no model; convert it again") from None


def _architecture(metadata: Mapping[str, Any], where: str) -> str:
    name = _plain(metadata.get("general.architecture"))
    if not isinstance(name, str) or name not in DIALECTS:
        raise FileError(f"{where}: no architecture {brief(name)} here{nearest(name, DIALECTS)}; "
                        f"of GGUF files there are: {', '.join(DIALECTS)}")  # fmt: skip
    return name


def nearest(name: object, known: Collection[str]) -> str:
    """For an error's line: which of the known names is like this one."""
    if not isinstance(name, str):
        return ""
    begins = sorted((k for k in known if name.startswith(k)), key=len, reverse=True)
    longer = [k for k in known if k.startswith(name) and name]
    near = begins or longer or difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f" (there is {near[0]!r}, but not what {brief(name)} adds or changes)" if near else ""


def _number(metadata: Mapping[str, Any], key: str, where: str) -> Any:
    found = _plain(metadata.get(key))
    if found is not None and type(found) not in (int, float):
        kind = "is no number" if isinstance(found, str | bool) else "has a number for each layer"
        raise FileError(f"{where}: metadata {key!r} {kind}, {brief(found)}, which lcm cannot compute with")
    return found


def _plain(value: Any) -> Any:
    """A number of Python's; of an f32 the decimal number that was meant: 1e-6, not 9.99999997e-7."""
    if isinstance(value, np.float32):
        return float(str(value))
    return value.item() if isinstance(value, np.generic) else value


def _scaling(metadata: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """The table `rope_scaling`, in the words of config.json."""
    prefix = f"{name}.rope.scaling."
    said = {k.removeprefix(prefix): _plain(metadata[k]) for k in metadata if k.startswith(prefix)}
    if odd := [key for key, value in said.items() if type(value) not in (str, bool, int, float)]:
        raise FileError(f"{where}: metadata {prefix + odd[0]!r} is no number or text; convert it again")
    kind = said.pop("type", "none")
    if kind == "none":
        return {}
    return {"rope_scaling": {"rope_type": kind} | {SCALING.get(k, k): v for k, v in said.items()}}


def _llama3(divisors: np.ndarray, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Llama 3's scaling, of which a file has only what follows from it; all its models have these bounds."""
    scaling = Llama3(float(divisors.max(initial=1)), 1.0, 4.0, 8192)
    width = values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
    theta = values.get("rope_theta", 10000.0)
    fits = divisors.shape == (width / 2,) and np.isfinite(divisors).all() and 0 < theta < 1e38
    if not fits or not np.allclose(divisors_of(scaling, theta, width), divisors, rtol=1e-4):
        raise FileError(f"{where}: its {DIVISORS} is not that of Llama 3's scaling; "
                        f"use the model's safetensors")  # fmt: skip
    return {"rope_scaling": vars(scaling)}


def divisors_in(file: File) -> np.ndarray | None:
    """What the file's tensor `DIVISORS` says, if it has one."""
    format = file.formats.get(DIVISORS)
    return formats.decode(file[DIVISORS], format) if format in formats.FORMATS else None


def divisors_of(scaling: Scaling, theta: float, width: int) -> np.ndarray:
    """(width / 2,) f32: how many times slower each pair turns."""
    plain, scaled = (s.frequencies(theta, width, long=True) for s in (Scaling(), scaling))
    divisors: np.ndarray = plain / scaled
    return divisors


DIVISORS = "rope_freqs.weight"
# Keys of rope.scaling: those of the table rope_scaling, where they differ.
SCALING = {
    "original_context_length": "original_max_position_embeddings", "attn_factor": "attention_factor",
    "yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow",
}  # fmt: skip


class GgufWeights(Mapping[str, np.ndarray]):
    """The tensors of a GGUF file under the names and in the order of numbers that checkpoints have."""

    def __init__(
        self, file: File, values: Mapping[str, Any], to_file: Callable[[str, np.ndarray], np.ndarray]
    ) -> None:
        """`values` of the configuration; `to_file` is the architecture's."""
        dialect = DIALECTS[_architecture(file.metadata, str(file.path))]
        self.path, self.metadata = file.path, file.metadata
        self._file, self._to_file = file, to_file
        self._places = {
            ours: place for name in file if name != DIVISORS for ours, place in _places(dialect, file, name)
        }
        self._heads = dialect.heads(values)
        self._ones = {ours for ours in self._places if dialect.ones and is_norm(ours)}
        stored = {ours: file.formats[name] for ours, (name, _) in self._places.items()}
        self.formats = stored | dict.fromkeys(self._ones, "f32")

    def __getitem__(self, name: str) -> np.ndarray:
        theirs, place = self._places[name]
        array = self._to_file(name, self._file[theirs][place])
        if name in self._ones:
            return formats.decode(array, self._file.formats[theirs]) - np.float32(1)
        heads = self._heads.get(name.rpartition(".")[0].rpartition(".")[2])
        return halves(array, heads) if heads else array

    def shape(self, name: str) -> tuple[int, ...]:
        """As a checkpoint has it, in numbers."""
        theirs, place = self._places[name]
        numbers = np.broadcast_to(np.int8(0), self._file.shape(theirs))[place]
        return self._to_file(name, numbers).shape

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


Place = int | EllipsisType


def _places(dialect: Dialect, file: File, name: str) -> Iterator[tuple[str, tuple[str, Place]]]:
    """A checkpoint's tensors that this one of the file is, and where in it: all of it, or one expert's."""
    ours, shape = dialect.ours(name), file.shape(name)
    if not dialect.is_stack(name):
        yield ours, (name, ...)
        return
    if not 0 < (shape or (0,))[0] < COUNTS["num_experts"]:
        raise FileError(f"{file.path}: {brief(name)} is {shape}, no stack of experts; get the model again")
    yield from ((ours.format(i), (name, i)) for i in range(shape[0]))


def is_norm(name: str) -> bool:
    """Whether this is the weight of a norm."""
    return name.endswith("norm.weight")


def halves(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of heads whose numbers turn in pairs 0 1, 2 3 …, so that those of a pair are half a head apart."""
    rows = array.reshape(heads, -1, 2, *array.shape[1:])
    return rows.swapaxes(1, 2).reshape(array.shape)


def pairs(array: np.ndarray, heads: int) -> np.ndarray:
    """What `halves` was given."""
    rows = array.reshape(heads, 2, -1, *array.shape[1:])
    return rows.swapaxes(1, 2).reshape(array.shape)
