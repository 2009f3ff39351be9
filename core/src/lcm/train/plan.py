"""Plan: everything that decides how a run goes, but for the model and the data."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcm.errors import FileError, UsageError


@dataclass(frozen=True)
class Plan:
    """The settings of a training run; a step is one change of the parameters."""

    steps: int = 1000
    batch: int = 8  # sequences that run together
    accumulate: int = 1  # batches whose gradients are added up for one step
    context: int = 256  # tokens in a sequence
    optimizer: str = "adamw"
    lr: float = 1e-3  # the peak
    schedule: str = "cosine"
    warmup: int = 50  # steps
    final: float = 0.1  # the last rate, as a share of the peak
    weight_decay: float = 0.1
    clip: float = 1.0  # the largest norm of the gradients; 0 does not clip
    seed: int = 0
    evaluate_every: int = 200
    evaluate_batches: int = 20  # 0 evaluates on all that was held out
    save_every: int = 200
    keep: int = 2  # checkpoints
    patience: int = 0  # stop after so many evaluations without improvement; 0 never does
    spike: float = 3.0  # stop when a loss is this far above the running mean, in nats; 0 never does
    sample_every: int = 0  # 0 never does
    prompt: str = "def "
    minutes: float = 0.0  # stop after so long; 0 sets no limit

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch",
            "accumulate",
            "context",
            "evaluate_every",
            "save_every",
            "keep",
        ):
            if getattr(self, name) < 1:
                raise UsageError(
                    f"{name.replace('_', '-')} must be 1 or more, not {getattr(self, name)}"
                )
        for name in ("lr", "warmup", "final", "weight_decay", "clip", "patience", "spike", "minutes",
                     "evaluate_batches", "sample_every"):  # fmt: skip
            if not getattr(self, name) >= 0:
                raise UsageError(
                    f"{name.replace('_', '-')} must be 0 or more, not {getattr(self, name)}"
                )

    @property
    def sequences(self) -> int:
        """How many sequences a step sees."""
        return self.batch * self.accumulate

    def save(self, path: Path, **more: Any) -> None:
        text = json.dumps({"plan": dataclasses.asdict(self), **more}, indent=2)
        path.write_text(text + "\n", encoding="utf-8")

    @staticmethod
    def load(path: Path) -> tuple["Plan", dict[str, Any]]:
        """The plan in a run's `train.json`, and what stands beside it there."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return Plan(**values.pop("plan")), values
        except FileNotFoundError:
            raise FileError(
                f"{path.parent}: no {path.name} there; it is not a run of lcm train"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FileError(f"{path}: cannot be read: {error}") from None
