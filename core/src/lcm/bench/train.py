"""lcm bench train: steps of training as lcm train takes them, on random tokens."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from lcm import models, ops
from lcm.backend import dispatch, measure
from lcm.bench import machine
from lcm.bench.results import Results, Row, Value
from lcm.bench.timing import repeat
from lcm.errors import UsageError
from lcm.nn import Model
from lcm.tensor import Tensor
from lcm.train.gradients import Gradients
from lcm.train.optimizers import make
from lcm.train.plan import Plan

# GPT-2 in nanoGPT's small shape, and one that is smaller still.
PRESETS: dict[str, dict[str, Any]] = {
    "6x384": {"n_positions": 256, "n_embd": 384, "n_layer": 6, "n_head": 6},
    "4x128": {"n_positions": 64, "n_embd": 128, "n_layer": 4, "n_head": 4},
}
SAME = {"model_type": "gpt2", "vocab_size": 65, "activation_function": "gelu_pytorch_tanh"}
BATCH = 12


def run(
    preset: str = "6x384", model: Path | None = None, *, batch: int = BATCH, context: int = 0,
    budget: float = 10.0, price: float | None = None, progress: machine.Progress = str,
) -> Results:  # fmt: skip
    """Steps of a preset's model or of the one in a folder, for about `budget` seconds.

    A context of 0 is the model's own, and 256 at most.
    """
    here = machine.record()
    name = model.name if model else preset
    learner = models.load(model) if model else models.fresh(SAME | PRESETS[preset], seed=0)
    context = context or min(256, learner.context)
    if context > learner.context:
        raise UsageError(f"--context {context} is more than the model's {learner.context}")
    step = Step(learner, batch, context)
    progress(f"{name}: the first step")
    started = time.perf_counter()
    step()
    first = time.perf_counter() - started
    progress(f"{name}: steps of {batch} x {context} tokens")
    seconds = repeat(step, budget=budget)
    row = Row({"model": name, "batch": batch, "context": context}, seconds)
    tokens = batch * context / row.median
    figures: dict[str, Value] = {
        "tokens/s": tokens,
        "GFLOP/s": operations_of_a_step(learner, batch, context) / row.median / 1e9,
        **machine.cost(price, tokens),
        "first step s": first,
        "peak MiB": machine.peak_memory(),
        "parameters": sum(p.size for p in learner.parameters().values()),
    }
    return Results("train", here, (Row(row.case, seconds, figures),), (machine.who_ran(),))


class Step:
    """One step: the gradients of a batch, their norm for clipping, and AdamW; each time on other tokens."""

    def __init__(self, model: Model, batch: int, context: int) -> None:
        plan = Plan()
        model.train()
        self._optimizer = make(plan.optimizer, model.parameters(), weight_decay=plan.weight_decay)
        self._gradients = Gradients(model)
        self._clip, self._lr = plan.clip, plan.lr
        self._rng, self._shape = np.random.default_rng(0), (batch, context + 1)
        self._vocabulary = model.vocabulary
        self.loss = float("nan")

    def __call__(self) -> None:
        text = self._rng.integers(0, self._vocabulary, self._shape).astype(np.int32)
        self.loss = self._gradients.add(text[:, :-1].copy(), text[:, 1:].copy())
        norm = self._optimizer.gradient_norm()
        self._optimizer.step(lr=self._lr, grad_scale=min(1.0, self._clip / (norm + 1e-6)))


def operations_of_a_step(model: Model, batch: int, context: int) -> float:
    """Of all products that a step asks for, forward and backward; a multiply-add is two."""
    model.train()
    ids = Tensor(np.zeros((batch, context), np.int32))
    asked = dispatch.rehearse(lambda: ops.cross_entropy(model(ids), ids).backward())
    model.train()  # forgets the gradients
    return sum(a.calls * measure.cost(a.symbol, a.sizes)[0] for a in asked)
