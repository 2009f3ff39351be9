"""Ten steps of training of two very small models: the losses on a backend, and by the ops' definitions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np

from lcm import ops
from lcm.backend import discovery, dispatch
from lcm.backend.contract import Backend
from lcm.models import gpt2, llama
from lcm.nn import Model
from lcm.tensor import Tensor
from lcm.train.optimizers import AdamW

STEPS = 10
BATCH, TOKENS, VOCABULARY = 3, 19, 67
# Of the loss. Ten steps multiply the roundings of the first: other orders of summation alone change the
# tenth loss by some 3e-7.
TOLERANCE = 1e-5

MODELS: dict[str, Callable[[], Model]] = {
    "gpt2": lambda: gpt2.GPT2(
        gpt2.Config(vocab_size=VOCABULARY, n_positions=32, n_embd=36, n_layer=2, n_head=3)
    ),
    "llama": lambda: llama.Llama(
        llama.Config(
            vocab_size=VOCABULARY, hidden_size=36, intermediate_size=52, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=10, max_position_embeddings=32,
        )
    ),
}  # fmt: skip


def losses(name: str) -> list[float]:
    """The loss before each of the steps."""
    rng = np.random.default_rng(0)
    model = MODELS[name]()
    model.initialise(rng)
    model.train()
    adamw = AdamW(model.parameters(), weight_decay=0.1, beta1=0.9, beta2=0.95, eps=1e-8)
    ids = rng.integers(0, VOCABULARY, (BATCH, TOKENS + 1)).astype(np.int32)
    found = []
    for _ in range(STEPS):
        y = ops.cross_entropy(model(Tensor(ids[:, :-1])), Tensor(np.ascontiguousarray(ids[:, 1:])))
        y.backward()
        adamw.step(lr=1e-2)
        found.append(y.item())
    return found


@contextmanager
def running_on(backend: Backend) -> Iterator[dict[str, dict[str, int]]]:
    """Every op inside runs on this backend where it can, installed or not; afterwards: what ran where."""
    ran: dict[str, dict[str, int]] = {}
    dispatch.reset()
    try:
        opens = mock.patch.object(discovery, "open_backend", return_value=backend)
        with opens, dispatch.use_backend(backend.name):
            yield ran
        ran.update(dispatch.ran())
    finally:
        dispatch.reset()
