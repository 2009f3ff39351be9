"""lcm tune: measure which backend is fastest for which shapes, and remember it."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from lcm.cli import options

if TYPE_CHECKING:
    from lcm.backend.dispatch import Asked
    from lcm.nn import Model

# Square products, and those of decoders: one token, a few, a prompt; narrow and wide.
SHAPES = [
    *((size, size, size) for size in (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)),
    *((rows, inputs, outputs) for rows in (1, 16, 128, 512)
      for inputs, outputs in ((256, 256), (256, 704), (384, 1536), (896, 896), (896, 4864), (4864, 896))),
]  # fmt: skip
PROMPTS = (32, 128)  # tokens
SECONDS = 2.0  # that measuring may take when nobody has asked for it


@click.command()
@options.model
@click.option("--training", is_flag=True, help="With --model: also the shapes of a training step.")
@click.option(
    "--op", "symbol", metavar="OP", help="Only this kernel, such as linear or linear_grad."
)
@click.option("--shape", metavar="SIZES", help="With --op: its sizes, such as 512,896,4864.")
@click.option("--anew", is_flag=True, help="Forget what was measured before at these shapes.")
@options.as_json
def command(
    model: str, training: bool, symbol: str | None, shape: str | None, anew: bool, as_json: bool
) -> None:
    """Time every ready backend and the reference at the shapes that matter, and keep the fastest.

    \b
    lcm tune                                  common shapes of products
    lcm tune --model tinycode --training      exactly what this model runs
    lcm tune --op linear --shape 512,896,4864

    Each measurement is averaged with those before it. Ctrl-C keeps what was measured.
    """
    from lcm.backend import dispatch, measure

    calls = _calls(model, training, symbol, shape)
    if not symbol:
        calls = [c for c in calls if len(dispatch.candidates(c.symbol)) > 1]
    if not calls:
        raise click.ClickException("only the reference has these kernels; see lcm backends")
    rows: list[dict[str, Any]] = []
    busy = 0
    for number, call in enumerate(calls, 1):
        try:
            times, steady = measure.compare(call.symbol, call.sizes, anew=anew)
            dispatch.table().save()
        except KeyboardInterrupt:
            kept = f"{len(rows)} of {len(calls)} shapes are measured and kept"
            click.echo(f"lcm: interrupted; {kept}", err=True)
            click.get_current_context().exit(130)
        busy += not steady
        fastest = min((n for n, s in times.items() if s), key=lambda n: times[n] or 0)
        rows.append(
            {"kernel": call.symbol, "sizes": dict(call.sizes), "seconds": times, "fastest": fastest}
        )
        if not as_json:
            click.echo(f"{number:3}/{len(calls)}  {_in_words(call, times)}")
    if busy:
        when = f"the machine was busy at {busy} of {len(calls)} shapes"
        click.echo(f"lcm: note: {when}; lcm tune --anew measures again, when it is quiet", err=True)
    if as_json:
        options.print_json(rows)
    else:
        click.echo(f"kept in {dispatch.table().path}")


def automatic(asked: "Callable[[], list[Asked]]") -> None:
    """Measure what a model asks for, if it never was: briefly, aloud, and not where LCM_TUNE is off."""
    from lcm import settings
    from lcm.backend import dispatch, measure
    from lcm.errors import UsageError

    setting = settings.find("tune")
    if setting.value not in ("auto", "off"):
        raise UsageError(f"{setting.source}: tune is auto or off, not {setting.value!r}")
    if setting.value == "off" or not dispatch.has_choice():
        return
    calls = measure.new(asked(), SECONDS)
    if calls:
        what = f"measuring which backend is fastest for this model, once, for up to {SECONDS:g} s"
        click.echo(f"lcm: note: {what}; LCM_TUNE=off does not", err=True)
        measure.learn(calls, SECONDS)


def of_training(model: "Model", batch: int, context: int) -> "list[Asked]":
    """What the gradient of a batch asks for; nothing is computed, and the model stays as it is."""
    import numpy as np

    from lcm import ops
    from lcm.backend import dispatch
    from lcm.tensor import Tensor

    ids = Tensor(np.zeros((batch, context), np.int32))
    asked = dispatch.rehearse(lambda: ops.cross_entropy(model(ids), ids).backward())
    for parameter in model.parameters().values():
        parameter.grad = None
    return asked


def _calls(model: str, training: bool, symbol: str | None, shape: str | None) -> "list[Asked]":
    from lcm.backend.dispatch import Asked
    from lcm.backend.measure import parse_shape

    if bool(symbol) != bool(shape):
        raise click.UsageError("--op and --shape belong together")
    if symbol and shape:
        return [Asked(symbol, parse_shape(symbol, shape), 1)]
    if model:
        return _calls_of(model, training)
    return [
        Asked(name, dict(zip(("rows", "inputs", "outputs"), sizes, strict=True)), 1)
        for name in ("linear", "linear_grad")
        for sizes in SHAPES
        if name == "linear" or sizes[0] > 1  # nobody learns from one row
    ]


def _calls_of(name: str, training: bool) -> "list[Asked]":
    """What a model asks for: prompts, a token, and a training step."""
    from lcm.backend import dispatch
    from lcm.generate.decoder import Decoder
    from lcm.generate.loading import load_model
    from lcm.train.plan import Plan

    model = load_model(name).model

    def write() -> None:
        for length in PROMPTS:
            decoder = Decoder(model)
            decoder.prefill([0] * min(length, model.context - 1))
        decoder.step(0)

    asked = dispatch.rehearse(write)
    if training:
        model.train()
        asked += of_training(model, Plan().batch, min(Plan().context, model.context))
    return list({(a.symbol, *a.sizes.values()): a for a in asked}.values())


def _in_words(call: "Asked", seconds: Mapping[str, float | None]) -> str:
    shape = ",".join(str(v) for v in call.sizes.values())
    order = sorted(seconds.items(), key=lambda item: item[1] or float("inf"))
    times = "  ".join(f"{n} {f'{s * 1e6:,.0f} µs' if s else 'refuses'}" for n, s in order)
    return f"{call.symbol:16} {shape:20} {times}"
