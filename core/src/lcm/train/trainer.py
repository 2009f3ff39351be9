"""The training loop: it yields what happens, step by step, and whoever runs it shows or plots that."""

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lcm import models
from lcm.errors import TrainingError, UsageError
from lcm.evaluation.perplexity import Evaluation, evaluate
from lcm.files.atomic import take_lock
from lcm.generate.text_model import TextModel
from lcm.nn import Model
from lcm.text.tokenizer import Tokenizer
from lcm.train import checkpoint
from lcm.train.dataset import Dataset
from lcm.train.gradients import Gradients
from lcm.train.optimizers import make
from lcm.train.plan import Plan
from lcm.train.schedule import learning_rate

METRICS = "metrics.jsonl"
SETTINGS = "train.json"


@dataclass(frozen=True)
class Step:
    """One step was taken; `loss` is in nats per token, `seconds` how long it took."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int  # seen since the run began
    seconds: float
    tokens_per_second: float


@dataclass(frozen=True)
class Evaluated:
    """The validation loss after a step; `best` if it is the lowest so far."""

    step: int
    validation_loss: float
    bits_per_byte: float
    best: bool


@dataclass(frozen=True)
class Sample:
    """What the model writes after a step."""

    step: int
    prompt: str
    text: str


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written."""

    step: int
    path: str


@dataclass(frozen=True)
class Finished:
    """The run is over, and why."""

    step: int
    reason: str


Event = Step | Evaluated | Sample | Saved | Finished


@dataclass
class State:
    """Where a run stands: all that is not in the model and the optimiser.

    Which windows come next follows from `position` and the seed alone, so there is no other random state.
    """

    step: int = 0
    position: int = 0  # sequences seen
    best_loss: float = math.inf
    without_improvement: int = 0
    running_loss: float | None = None
    seconds: float = 0.0


class Trainer:
    """A model on its way through a dataset, in a folder for the run."""

    def __init__(
        self, model: Model, tokenizer: Tokenizer, dataset: Dataset, plan: Plan, run: Path,
        paths: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.model, self.tokenizer, self.dataset = model, tokenizer, dataset
        self.plan, self.run_folder, self.paths = plan, run, list(paths)
        self.state = State()
        model.train()
        self._optimizer = make(plan.optimizer, model.parameters(), weight_decay=plan.weight_decay)
        self._gradients = Gradients(model)
        self._byte_lengths = tokenizer.byte_lengths()

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint."""
        values = checkpoint.restore(path, self.model, self._optimizer)
        if values.pop("fingerprint") != self.dataset.fingerprint:
            raise TrainingError(
                f"{path}: was trained on other data than {self.dataset.folder} holds; give the same files"
            )
        best = values.pop("best_loss")
        self.state = State(**values, best_loss=math.inf if best is None else best)

    def save(self) -> Saved:
        """Write a checkpoint now, and drop the oldest."""
        state = asdict(self.state) | {"fingerprint": self.dataset.fingerprint}
        state["best_loss"] = None if math.isinf(self.state.best_loss) else self.state.best_loss
        path = checkpoint.save(self.run_folder, self.model, self.tokenizer, self._optimizer, state)
        checkpoint.rotate(self.run_folder, self.plan.keep)
        return Saved(self.state.step, str(path))

    def run(self) -> Iterator[Event]:
        """Train to the plan's end; between two events everything is whole, and `save` may be called."""
        self.run_folder.mkdir(parents=True, exist_ok=True)
        with open(self.run_folder / METRICS, "a", encoding="utf-8") as metrics:
            if not take_lock(metrics.fileno()):
                raise UsageError(
                    f"{self.run_folder}: another lcm train is at work there; wait for it, "
                    "or choose another --out"
                )
            if self.state.step == 0:
                metrics.truncate(0)
            self.plan.save(
                self.run_folder / SETTINGS, paths=self.paths, model=models.config_json(self.model)
            )
            for event in self._events():
                if isinstance(event, (Step, Evaluated)):
                    metrics.write(json.dumps(asdict(event)) + "\n")
                    metrics.flush()
                yield event

    def _events(self) -> Iterator[Event]:
        plan, deadline = self.plan, time.monotonic() + 60 * (self.plan.minutes or math.inf)
        reason = f"all {plan.steps} steps are done"
        saved = self.state.step
        while self.state.step < plan.steps:
            yield self._step()
            step, last = self.state.step, self.state.step == plan.steps
            late = time.monotonic() > deadline
            if step % plan.evaluate_every == 0 or last or late:
                yield self._evaluate()
            if plan.sample_every and step % plan.sample_every == 0:
                yield self._sample()
            if step % plan.save_every == 0 or last or late:
                yield self.save()
                saved = step
            if late:
                reason = f"the {plan.minutes:g} minutes are over"
                break
            if plan.patience and self.state.without_improvement >= plan.patience:
                reason = f"the validation loss has not improved for {plan.patience} evaluations"
                break
        if saved != self.state.step:
            yield self.save()
        yield Finished(self.state.step, reason)

    def _step(self) -> Step:
        started = time.perf_counter()
        plan, state = self.plan, self.state
        number = state.step + 1
        loss = sum(self._accumulate(part) for part in range(plan.accumulate)) / plan.accumulate
        norm = self._optimizer.gradient_norm() / plan.accumulate
        self._check(number, loss, norm)
        lr = learning_rate(
            number, steps=plan.steps, peak=plan.lr, warmup=plan.warmup, shape=plan.schedule,
            final=plan.final,
        )  # fmt: skip
        clip = min(1.0, plan.clip / (norm + 1e-6)) if plan.clip else 1.0
        self._optimizer.step(lr=lr, grad_scale=clip / plan.accumulate)
        seconds = time.perf_counter() - started
        running = loss if state.running_loss is None else 0.95 * state.running_loss + 0.05 * loss
        self.state = replace(
            state, step=number, position=state.position + plan.sequences, running_loss=running,
            seconds=state.seconds + seconds,
        )  # fmt: skip
        tokens = plan.sequences * plan.context
        return Step(number, loss, lr, norm, number * tokens, seconds, tokens / seconds)

    def _accumulate(self, part: int) -> float:
        inputs, targets = self.dataset.train.batch(
            self.state.position + part * self.plan.batch,
            batch=self.plan.batch, context=self.plan.context, seed=self.plan.seed,
        )  # fmt: skip
        return self._gradients.add(inputs, targets)

    def _check(self, step: int, loss: float, norm: float) -> None:
        """`TrainingError` before a bad gradient reaches the parameters."""
        running = self.state.running_loss
        if not math.isfinite(loss) or not math.isfinite(norm):
            what = (
                "the loss is not a number"
                if not math.isfinite(loss)
                else "a gradient is not finite"
            )
        elif self.plan.spike and running is not None and loss > running + self.plan.spike:
            what = f"the loss jumped to {loss:.2f}, from about {running:.2f}"
        else:
            return
        self._optimizer.clear()
        files = self.dataset.train.sources(
            self.state.position, self.plan.sequences, self.plan.context, self.plan.seed
        )
        raise TrainingError(
            f"step {step}: {what}; the batch came from {', '.join(files[:8])}"
            f"{f' and {len(files) - 8} more' if len(files) > 8 else ''}. "
            "The parameters are as before the step; look at these files, or lower --lr"
        )

    def _evaluate(self) -> Evaluated:
        batches = self.dataset.validation.evaluation_batches(
            self.plan.batch, self.plan.context, limit=self.plan.evaluate_batches or None
        )
        found: Evaluation = evaluate(self.model, batches, self._byte_lengths, exact=True)
        best = found.loss < self.state.best_loss
        if best:
            checkpoint.save_model(self.run_folder / "best", self.model, self.tokenizer)
        self.state = replace(
            self.state,
            best_loss=min(found.loss, self.state.best_loss),
            without_improvement=0 if best else self.state.without_improvement + 1,
        )
        return Evaluated(self.state.step, found.loss, found.bits_per_byte, best)

    def _sample(self) -> Sample:
        found = TextModel(self.model, self.tokenizer).complete(self.plan.prompt)
        return Sample(self.state.step, self.plan.prompt, found.text)
