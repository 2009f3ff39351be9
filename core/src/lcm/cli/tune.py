"""lcm tune: measure which backend is fastest for which shapes, and remember it."""

import click

from lcm.cli import options

# A decoder's products: one token, a few, a prompt; narrow and wide.
SHAPES = [(rows, inputs, outputs) for rows in (1, 16, 512)
          for inputs, outputs in ((256, 256), (896, 896), (896, 4864), (4864, 896))]  # fmt: skip


@click.command()
@options.model
@click.option("--training", is_flag=True, help="With --model: also the shapes of a training step.")
@click.option(
    "--op", "symbol", metavar="OP", help="Only this kernel, such as linear or linear_grad."
)
@click.option("--shape", metavar="SIZES", help="With --op: its sizes, such as 512,896,4864.")
@options.as_json
def command(
    model: str, training: bool, symbol: str | None, shape: str | None, as_json: bool
) -> None:
    """Time every ready backend and the reference at the shapes that matter, and keep the fastest.

    \b
    lcm tune                                  common shapes of products
    lcm tune --model tinycode --training      exactly what this model runs
    lcm tune --op linear --shape 512,896,4864
    """
    from lcm.backend import dispatch, measure

    calls = _calls(model, training, symbol, shape)
    rows = []
    for name, sizes in calls:
        if len(dispatch.candidates(name)) < 2 and not symbol:
            continue  # nothing to choose between
        times = measure.compare(name, sizes)
        fastest = min(times, key=times.__getitem__)
        rows.append({"kernel": name, "sizes": sizes, "seconds": times, "fastest": fastest})
        if not as_json:
            _print_row(name, sizes, times)
    dispatch.table().save()
    if as_json:
        options.print_json(rows)
    else:
        click.echo(f"{len(rows)} shapes measured; kept in {dispatch.table().path}")


def _calls(
    model: str, training: bool, symbol: str | None, shape: str | None
) -> list[tuple[str, dict[str, int]]]:
    from lcm.backend.measure import parse_shape

    if bool(symbol) != bool(shape):
        raise click.UsageError("--op and --shape belong together")
    if symbol and shape:
        return [(symbol, parse_shape(symbol, shape))]
    if model:
        return _calls_of(model, training)
    return [
        (name, dict(zip(("rows", "inputs", "outputs"), sizes, strict=True)))
        for name in ("linear", "linear_grad")
        for sizes in SHAPES
    ]


def _calls_of(name: str, training: bool) -> list[tuple[str, dict[str, int]]]:
    """What a model asks for: a prompt, a token, and a training step."""
    import numpy as np

    from lcm import ops
    from lcm.backend import dispatch
    from lcm.generate.decoder import Decoder
    from lcm.generate.loading import load_model
    from lcm.tensor import Tensor

    model = load_model(name).model
    dispatch.reset()
    decoder = Decoder(model)
    decoder.prefill([0] * min(128, model.context - 1))
    decoder.step(0)
    if training:
        model.train()
        ids = Tensor(np.zeros((8, min(256, model.context)), np.int32))
        ops.cross_entropy(model(ids), ids).backward()
    return dispatch.seen()


def _print_row(name: str, sizes: dict[str, int], seconds: dict[str, float]) -> None:
    shape = ",".join(str(v) for v in sizes.values())
    times = "  ".join(
        f"{n} {s * 1e6:,.0f} µs" for n, s in sorted(seconds.items(), key=lambda i: i[1])
    )
    click.echo(f"{name:16} {shape:20} {times}")
