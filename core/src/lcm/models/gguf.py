"""Models in GGUF files: what they call the keys of a `config.json` and the tensors of a checkpoint.

The names are llama.cpp's (gguf-py's constants), so that its files load here, and ours there.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lcm.errors import FileError
from lcm.files.gguf import GgufFile
from lcm.files.sharded import ShardedWeights

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
# Tensors' names without their ending (.weight, .bias); {} is the number of the layer.
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


@dataclass(frozen=True)
class Dialect:
    """How GGUF files say what a `model_type`'s checkpoint says."""

    model_type: str
    keys: Mapping[str, str] = field(default_factory=lambda: KEYS)
    names: Mapping[str, str] = field(default_factory=lambda: NAMES)
    switches: Mapping[str, str] = field(default_factory=dict)  # true where the file has that tensor
    pairs: bool = False  # the numbers that turn together lie side by side, not half a head apart

    def ours(self, name: str) -> str:
        """A checkpoint's name for this tensor; the same name if it has none."""
        stem, dot, ending = name.rpartition(".")
        number = re.fullmatch(r"blk\.(\d+)\.(.+)", stem)
        found = self.names.get("blk.{}." + number[2] if number else stem)
        if found is None:
            return name
        return (found.format(number[1]) if number else found) + dot + ending


    def theirs(self, name: str) -> str:
        """A GGUF file's name for this parameter of a checkpoint."""
        stem, dot, ending = name.rpartition(".")
        number = re.search(r"\.(\d+)\.", stem)
        general = stem.replace(number[0], ".{}.", 1) if number else stem
        found = next(theirs for theirs, ours in self.names.items() if ours == general)
        return (found.format(number[1]) if number else found) + dot + ending

    def heads(self, values: Mapping[str, Any]) -> dict[str, int]:
        """How many heads each of the projections has whose numbers lie in pairs."""
        if not self.pairs:
            return {}
        heads = values["num_attention_heads"]
        return {"q_proj": heads, "k_proj": values.get("num_key_value_heads") or heads}


# By `general.architecture`.
DIALECTS = {
    "llama": Dialect(
        "llama", pairs=True,
        switches={"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_gate.bias"},
    ),
    "qwen2": Dialect("qwen2"),
    "qwen3": Dialect(
        "qwen3",
        names=NAMES | {
            "blk.{}.attn_q_norm": "model.layers.{}.self_attn.q_norm",
            "blk.{}.attn_k_norm": "model.layers.{}.self_attn.k_norm",
        },
    ),
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


def read_config(file: File) -> dict[str, Any]:
    """What a `config.json` would say of the model."""
    name = _architecture(file)
    dialect = DIALECTS[name]
    found = {key: file.metadata.get(f"{name}.{theirs}") for theirs, key in dialect.keys.items()}
    values = {key: _plain(value) for key, value in found.items() if value is not None}
    values |= {key: tensor in file for key, tensor in dialect.switches.items()}
    values |= _scaling(file, name)
    embedding = "token_embd.weight"
    if embedding not in file:
        raise FileError(f"{file.path}: has no tensor {embedding!r}; it is no whole model")
    return values | {
        "model_type": dialect.model_type,
        "vocab_size": file.shape(embedding)[0],
        "tie_word_embeddings": "output.weight" not in file,
    }


def _architecture(file: File) -> str:
    name = file.metadata.get("general.architecture")
    if name not in DIALECTS:
        raise FileError(
            f"{file.path}: no architecture {name!r} here; of GGUF files there are: {', '.join(DIALECTS)}"
        )
    return str(name)


def _plain(value: Any) -> Any:
    """A number of Python's; of an f32 the decimal number that was meant: 1e-6, not 9.99999997e-7."""
    if isinstance(value, np.float32):
        return float(str(value))
    return value.item() if isinstance(value, np.generic) else value


def _scaling(file: File, name: str) -> dict[str, Any]:
    """The table `rope_scaling`, in the words of config.json."""
    prefix = f"{name}.rope.scaling."
    said = {k.removeprefix(prefix): _plain(v) for k, v in file.metadata.items() if k.startswith(prefix)}
    kind = said.pop("type", "none")
    if "rope_freqs.weight" in file:
        raise FileError(f"{file.path}: its rope_freqs are not supported; use the model's safetensors")
    if kind == "none":
        return {}
    words = {
        "original_context_length": "original_max_position_embeddings", "attn_factor": "attention_factor",
        "yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow",
    }  # fmt: skip
    return {"rope_scaling": {"rope_type": kind} | {words.get(k, k): v for k, v in said.items()}}


class GgufWeights(Mapping[str, np.ndarray]):
    """The tensors of a GGUF file under the names and in the order of numbers that checkpoints have."""

    def __init__(
        self, file: File, values: Mapping[str, Any], to_file: Callable[[str, np.ndarray], np.ndarray]
    ) -> None:
        """`values` of the configuration; `to_file` is the architecture's."""
        dialect = DIALECTS[_architecture(file)]
        self.path, self.metadata = file.path, file.metadata
        self._file, self._to_file = file, to_file
        self._names = {dialect.ours(name): name for name in file}
        self.formats = {ours: file.formats[name] for ours, name in self._names.items()}
        self._heads = dialect.heads(values)

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._to_file(name, self._file[self._names[name]])
        heads = self._heads.get(name.rpartition(".")[0].rpartition(".")[2])
        return halves(array, heads) if heads else array

    def shape(self, name: str) -> tuple[int, ...]:
        """As a checkpoint has it, in numbers."""
        return self._to_file(name, np.broadcast_to(0, self._file.shape(self._names[name]))).shape

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def halves(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of heads whose numbers turn in pairs 0 1, 2 3 …, so that those of a pair are half a head apart."""
    rows = array.reshape(heads, -1, 2, *array.shape[1:])
    return rows.swapaxes(1, 2).reshape(array.shape)


def pairs(array: np.ndarray, heads: int) -> np.ndarray:
    """What `halves` was given."""
    rows = array.reshape(heads, 2, -1, *array.shape[1:])
    return rows.swapaxes(1, 2).reshape(array.shape)
