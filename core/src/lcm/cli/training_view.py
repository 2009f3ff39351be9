"""What a training run looks like: live in a terminal, plain lines elsewhere."""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lcm.backend import dispatch
from lcm.errors import UsageError
from lcm.train import report
from lcm.train.trainer import METRICS, Evaluated, Event, Finished, Sample, Saved, Step, Trainer

EVERY = 10  # steps for one plain line


def make() -> "View":
    """The view that fits where the output goes."""
    return Live() if sys.stdout.isatty() else View()


class View:
    """Plain lines."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)

    def __enter__(self) -> "View":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def preparing(self, done: int, total: int) -> None:
        """The text is being tokenised."""

    def begin(self, trainer: Trainer) -> None:
        parameters = sum(p.size for p in trainer.model.parameters().values())
        data = trainer.dataset
        self.line(
            f"{trainer.model.model_type}, {parameters / 1e6:.1f} M parameters; "
            f"{data.train.tokens:,} tokens of {len(data.train.documents):,} files to learn from, "
            f"{data.validation.tokens:,} of {len(data.validation.documents):,} held out"
        )
        if trainer.state.step:
            self.line(f"going on after step {trainer.state.step}")

    def show(self, event: Event) -> None:
        match event:
            case Step():
                self.step(event)
            case Evaluated():
                best = ", the best so far" if event.best else ""
                self.line(
                    f"step {event.step:>6}  validation loss {event.validation_loss:.4f}, "
                    f"{event.bits_per_byte:.3f} bits per byte{best}"
                )
            case Sample():
                self.line(f"step {event.step:>6}  sample: {event.prompt}{event.text}".rstrip())
            case Saved():
                self.line(f"step {event.step:>6}  saved {event.path}")
            case Finished():
                self.line(f"finished: {event.reason}")

    def step(self, event: Step) -> None:
        if event.step % EVERY == 0 or event.step == 1:
            self.line(
                f"step {event.step:>6}  loss {event.loss:.4f}  lr {event.lr:.2e}  "
                f"{event.tokens_per_second:,.0f} tokens/s"
            )

    def line(self, text: str) -> None:
        self.console.print(text, markup=False)

    def end(self, trainer: Trainer) -> None:
        metrics = trainer.run_folder / METRICS
        self.line(report.curve(report.read_metrics(metrics)[0]))
        try:
            picture = trainer.run_folder / "loss.png"
            report.plot(metrics, picture)
            self.line(f"loss curve: {picture}")
        except UsageError as error:
            self.line(f"no picture of the loss curve: {error}")
        self.line(f"backends: {in_words(dispatch.ran())}")
        self.line(f'try it: lcm complete "def main(" --model {_short(trainer.run_folder)}')


class Live(View):
    """A bar with the rate, the losses and the time left, under the lines."""

    def __init__(self) -> None:
        super().__init__()
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(), TextColumn("left"),
            TimeRemainingColumn(), console=self.console,
        )  # fmt: skip
        self._task = self.progress.add_task("preparing the text", total=None)
        self._validation = ""
        self._limit = 0.0
        self._spent = 0.0

    def __enter__(self) -> "View":
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def preparing(self, done: int, total: int) -> None:
        self.progress.update(self._task, completed=done, total=total)

    def begin(self, trainer: Trainer) -> None:
        super().begin(trainer)
        self._limit = 60 * trainer.plan.minutes
        total = self._limit or trainer.plan.steps
        self.progress.reset(
            self._task, total=total, completed=0 if self._limit else trainer.state.step,
            description="training",
        )  # fmt: skip

    def step(self, event: Step) -> None:
        self._spent += event.seconds
        self.progress.update(
            self._task,
            completed=self._spent if self._limit else event.step,
            description=f"step {event.step}  loss {event.loss:.3f}{self._validation}  "
            f"{event.tokens_per_second:,.0f} tokens/s",
        )

    def show(self, event: Event) -> None:
        if isinstance(event, Evaluated):
            self._validation = f"  held out {event.bits_per_byte:.3f} bits/byte"
        super().show(event)


def in_words(ran: dict[str, dict[str, int]]) -> str:
    """Which backend ran which kernels, shortly."""
    kernels: dict[str, list[str]] = {}
    for symbol, backends in ran.items():
        for backend in backends:
            kernels.setdefault(backend, []).append(symbol)
    return "; ".join(f"{backend} ran {', '.join(found)}" for backend, found in kernels.items())


def _short(path: Path) -> Any:
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path
