"""What GGUF files call the keys of a `config.json` and the tensors of a checkpoint, by architecture.

The names are llama.cpp's (gguf-py's constants), so that its files load here, and ours there.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

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



STACKS = {
    "blk.{}.ffn_gate_exps": "model.layers.{}.mlp.experts.{}.gate_proj",
    "blk.{}.ffn_up_exps": "model.layers.{}.mlp.experts.{}.up_proj",
    "blk.{}.ffn_down_exps": "model.layers.{}.mlp.experts.{}.down_proj",
}


def _all_experts(values: dict[str, Any]) -> dict[str, Any]:
    """What all such files are taken to mean: experts in every layer, and shares that add up to 1."""
    return {"norm_topk_prob": True}


def _as_gpt_oss(values: dict[str, Any]) -> dict[str, Any]:
    """Where no file says it: the ramp between slow and fast pairs has no whole ends, and none is no YaRN."""
    scaling = values.get("rope_scaling")
    return {"rope_scaling": {"truncate": False} | scaling if scaling else {"rope_type": "default"}}


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
        names=NAMES | NORMED | STACKS | {
            "blk.{}.ffn_gate_inp": "model.layers.{}.mlp.gate",
        },
    ),
    "gpt-oss": Dialect(
        "gpt_oss", implied=_as_gpt_oss, switches={"attention_bias": "blk.0.attn_q.bias"},
        keys=KEYS | {
            "expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok",
            "expert_feed_forward_length": "intermediate_size",
        },
        names=NAMES | STACKS | {
            "blk.{}.post_attention_norm": "model.layers.{}.post_attention_layernorm",
            "blk.{}.attn_sinks": "model.layers.{}.self_attn.sinks",
            "blk.{}.ffn_gate_inp": "model.layers.{}.mlp.router",
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
