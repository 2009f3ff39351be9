"""lcm train: train a model on source code, or go on with a run."""

import dataclasses
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from lcm.cli import options
from lcm.train.plan import Plan

HELP = {
    "steps": "Changes of the parameters.", "batch": "Sequences that run together.",
    "accumulate": "Batches for one step.", "context": "Tokens in a sequence.",
    "optimizer": "adamw or sgd.", "lr": "The highest learning rate.",
    "schedule": "constant, linear, cosine or wsd.", "warmup": "Steps until the highest rate.",
    "final": "The last rate, as a share of the highest.", "weight_decay": "Of matrices.",
    "clip": "The largest norm of the gradients; 0: any.", "seed": "Of weights and order.",
    "evaluate_every": "Steps.", "evaluate_batches": "Held-out batches; 0: all.",
    "save_every": "Steps.", "keep": "Checkpoints to keep.",
    "patience": "Evaluations without improvement before it stops; 0: never.",
    "spike": "Stop when the loss jumps by so much; 0: never.",
    "sample_every": "Steps; 0: never.", "prompt": "What samples begin with.",
    "minutes": "Stop after so long; 0: no limit.",
}  # fmt: skip
SHAPE = {
    "architecture": ("llama", "llama, mistral or gpt2."), "layers": (4, "Layers."),
    "width": (256, "Width of the model."), "heads": (4, "Query heads."),
    "key_heads": (2, "Key heads (not for gpt2)."), "hidden": (704, "Width inside the MLP."),
    "vocabulary": (4096, "Tokens of a new tokenizer."),
    "positions": (0, "The longest text of the model; 0: --context."),
}  # fmt: skip


def _plan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, (default, help) in reversed(SHAPE.items()):
        command = _option(name, default, help)(command)
    for field in reversed(dataclasses.fields(Plan)):
        command = _option(field.name, field.default, HELP[field.name])(command)
    return command


def _option(name: str, default: Any, help: str) -> Callable[..., Any]:
    return click.option(
        f"--{name.replace('_', '-')}", name, default=default, show_default=True, help=help
    )


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True))
@click.option("--out", default="runs/latest", show_default=True, help="The run's folder.")
@click.option(
    "--resume",
    "resumed",
    metavar="RUN",
    help="Go on with this run; given settings replace its own.",
)
@click.option("--from", "base", default="", metavar="MODEL", help="Fine-tune this model.")
@click.option("--tokenizer", default="", metavar="FILE", help="Use this tokenizer.json.")
@options.backend
@_plan_options
def command(
    paths: tuple[str, ...], out: str, resumed: str | None, base: str,
    tokenizer: str, backend: str, **given: Any,
) -> None:  # fmt: skip
    """Train a model on the source code in PATHS (default: Python's standard library).

    \b
    lcm train --minutes 1
    lcm train ~/project --out runs/mine --steps 2000
    lcm train ~/project --from tinycode --lr 3e-4
    lcm train --resume runs/mine --steps 4000

    Ctrl-C saves a checkpoint and says how to go on.
    """
    from lcm.cli import tune
    from lcm.train import setup
    from lcm.train.setup import Shape

    shape = Shape(**{name: given.pop(name) for name in SHAPE})
    view = _view()
    with options.on_backend(backend), view:
        if resumed:
            if paths or base:
                raise click.UsageError("--resume goes on with the run's own files and model")
            changed = {n: v for n, v in given.items() if _is_given(n)}
            trainer = setup.resume(Path(resumed), view.preparing, **changed)
        else:
            plan = Plan(**given)
            trainer = setup.start(
                Path(out),
                paths,
                plan,
                shape,
                base=base,
                tokenizer=tokenizer,
                progress=view.preparing,
            )
        plan, model = trainer.plan, trainer.model
        if not resumed:  # which goes on as it began, bit by bit
            tune.automatic(lambda: tune.of_training(model, plan.batch, plan.context))
        interrupted = _run(trainer, view)
    if interrupted:
        click.echo(f"lcm: interrupted; to go on: lcm train --resume {trainer.run_folder}", err=True)
        click.get_current_context().exit(130)


def _is_given(name: str) -> bool:
    return click.get_current_context().get_parameter_source(name) == ParameterSource.COMMANDLINE


def _run(trainer: Any, view: Any) -> bool:
    """Train and show it; True if the user stopped it."""
    view.begin(trainer)
    with _interrupts() as asked:
        for event in trainer.run():
            view.show(event)
            if asked:
                view.show(trainer.save())
                return True
    view.end(trainer)
    return False


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM wait for the step to end: the list is then not empty. A second one does not wait."""
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _view() -> Any:
    from lcm.cli import training_view

    return training_view.make()
