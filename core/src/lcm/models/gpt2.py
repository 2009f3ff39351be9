"""GPT-2: LayerNorm, learned positions, GELU, and a head that shares the embedding (Radford et al., 2019).

B batch   T tokens   D model width   H heads   Q head width
"""

import math
from dataclasses import dataclass

import numpy as np

from lcm.caches import Cache, LayerCache
from lcm.models.blocks import TANH, GeluMLP
from lcm.models.config import read, refuse_remainder, refuse_unless
from lcm.nn import Embedding, LayerNorm, Linear, Model, Module
from lcm.tensor import Tensor, arange


@dataclass(frozen=True)
class Config:
    """The keys of `config.json` that GPT-2 is made from."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True


class Attention(Module):
    def __init__(self, c: Config) -> None:
        self.c_attn = Linear(c.n_embd, 3 * c.n_embd, bias=True)
        self.c_proj = Linear(c.n_embd, c.n_embd, bias=True, std=_residual_std(c))
        self._head = c.n_embd // c.n_head

    def __call__(self, x: Tensor, cache: LayerCache) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.c_attn(x).reshape(batch, tokens, 3, -1, self._head)               # (B, T, 3, H, Q)
        y = cache.self_attention(qkv, scale=self._head**-0.5)                        # (B, T, H, Q)
        return self.c_proj(y.join_last())                                            # (B, T, D)


class Block(Module):
    def __init__(self, c: Config) -> None:
        self.ln_1 = LayerNorm(c.n_embd, c.layer_norm_epsilon)
        self.attn = Attention(c)
        self.ln_2 = LayerNorm(c.n_embd, c.layer_norm_epsilon)
        self.mlp = GeluMLP(
            c.n_embd, c.n_inner or 4 * c.n_embd,
            activation=c.activation_function, bias=True, std=_residual_std(c),
        )  # fmt: skip

    def __call__(self, x: Tensor, cache: LayerCache) -> Tensor:
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class Transformer(Module):
    def __init__(self, c: Config) -> None:
        self.wte = Embedding(c.vocab_size, c.n_embd)
        self.wpe = Embedding(c.n_positions, c.n_embd)
        self.h = [Block(c) for _ in range(c.n_layer)]
        self.ln_f = LayerNorm(c.n_embd, c.layer_norm_epsilon)

    def __call__(self, ids: Tensor, cache: Cache) -> Tensor:
        batch, tokens = ids.shape
        places = cache.start.reshape(batch, 1) + arange(tokens)                      # (B, T)
        x = self.wte(ids) + self.wpe(places)                                         # (B, T, D)
        for i, block in enumerate(self.h):
            x = block(x, cache.layer(i))
        return self.ln_f(x)


class GPT2(Model):
    def __init__(self, c: Config) -> None:
        self.config = c
        self.context, self.vocabulary = c.n_positions, c.vocab_size
        self.cache_shape = (c.n_layer, c.n_head, c.n_embd // c.n_head)
        self.transformer = Transformer(c)
        self.lm_head = Linear(c.n_embd, c.vocab_size)
        if c.tie_word_embeddings:
            self.lm_head.weight = self.transformer.wte.weight

    def hidden(self, ids: Tensor, cache: Cache) -> Tensor:
        return self.transformer(ids, cache)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)


# What its checkpoints also hold, and no model needs: masks that are constants.
IGNORED = (r".*\.attn\.(bias|masked_bias)",)

_TRANSPOSED = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")


def configure(values: dict[str, object]) -> Config:
    refuse_unless(values, "gpt2", activation_function=tuple(TANH), add_cross_attention=(False,),
                  scale_attn_by_inverse_layer_idx=(False,), scale_attn_weights=(True,))  # fmt: skip
    config = read(Config, values, "gpt2")
    refuse_remainder("gpt2", n_embd=config.n_embd, n_head=config.n_head)
    return config


def to_file(name: str, array: np.ndarray) -> np.ndarray:
    """The checkpoint keeps these as [in, out] (it calls them Conv1D); here every weight is [out, in]."""
    return array.T if name.endswith(_TRANSPOSED) else array


from_file = to_file


def file_names(name: str) -> tuple[str, ...]:
    """OpenAI's own files have no prefix."""
    return name, name.removeprefix("transformer.")


def _residual_std(c: Config) -> float:
    return 0.02 / math.sqrt(2 * c.n_layer)


MODEL = GPT2
