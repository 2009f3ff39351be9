"""lcm eval: how well a model predicts files, what rounding costs it, and which problems it solves."""

from typing import Any

import click

from lcm.cli import options


class _Perplexity(click.Group):
    """A group that takes paths as well: what is no command of it is what to measure perplexity on."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["perplexity", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Perplexity)
def command() -> None:
    """Measure how well a model predicts files, what rounding costs it, and which problems it solves.

    \b
    lcm eval perplexity src/                     the same as lcm eval src/
    lcm eval kl src/ --model mine-q4_k_m.gguf    what 8-bit activations cost
    lcm eval problems --yes-run-code             small functions, tested
    """


activations = click.option(
    "--activations", type=click.Choice(["int8", "f32"]),
    help="What meets weights in blocks; the setting of this name if not given.",
)  # fmt: skip


def on_text(function: Any) -> Any:
    """The options that say which text is looked at, and how."""
    every = (
        click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True)),
        options.model,
        options.backend,
        activations,
        click.option(
            "--context",
            type=click.IntRange(1),
            help="Tokens that are seen at once; the model's own if not given, and 2,048 at most.",
        ),
        click.option(
            "--batch",
            default=4,
            show_default=True,
            type=click.IntRange(1),
            help="Sequences at a time.",
        ),
        click.option("--limit", default=0, help="Batches at most; 0 takes all."),
        options.as_json,
    )
    for option in reversed(every):
        function = option(function)
    return function


@command.command()
@on_text
def perplexity(
    paths: tuple[str, ...],
    model: str,
    backend: str,
    activations: str | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Measure perplexity and bits per byte on the source files in PATHS, as the model runs.

    \b
    lcm eval perplexity src/
    lcm eval perplexity tests/ --model runs/mine --json
    lcm eval perplexity src/ --model mine-q8_0.gguf --activations f32
    """
    from lcm.evaluation.perplexity import evaluate
    from lcm.evaluation.running import load_running

    with options.on_backend(backend):
        loaded = load_running(model, activations)
        text = _text(paths, loaded, **how)
        found = evaluate(loaded.model, text, loaded.tokenizer.byte_lengths())
    record = {
        "loss": found.loss,
        "perplexity": found.perplexity,
        "bits_per_byte": found.bits_per_byte,
        "tokens": found.tokens,
        "bytes": found.bytes,
        **_as_run(loaded),
    }
    _tell(record, as_json)


@command.command()
@on_text
@click.option(
    "--against", default="", metavar="MODEL",
    help="The reference, which runs with f32 activations; the model itself if not given.",
)  # fmt: skip
def kl(
    paths: tuple[str, ...], model: str, backend: str, activations: str | None, against: str, as_json: bool,
    **how: Any,
) -> None:  # fmt: skip
    """Measure how far a model's probabilities are from a reference's, on the source files in PATHS.

    \b
    lcm eval kl src/ --model mine-q8_0.gguf                      8-bit activations against f32
    lcm eval kl src/ --model mine-q4_k_m.gguf --against mine     fewer bits against all of them

    Divergences are in nats. What stands behind ± is a standard error, as if tokens were independent.
    """
    from lcm.errors import UsageError
    from lcm.evaluation.divergence import compare
    from lcm.evaluation.running import load_running

    with options.on_backend(backend):
        loaded = load_running(model, activations)
        if not against and set(_as_run(loaded).values()) == {"f32"}:
            raise UsageError(
                f"{loaded.folder} runs with f32 activations here, so it would be compared with itself; "
                "name another model: --against MODEL"
            )
        reference = load_running(against or model, "f32")
        text = _text(paths, loaded, reference, **how)
        found = compare(loaded.model, reference.model, text)
    record = {
        "model": str(loaded.folder),
        **_as_run(loaded),
        "reference": str(reference.folder),
        "tokens": len(found.kl),
    }
    _tell(record | found.figures(), as_json)


@command.command()
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False))
@options.model
@options.backend
@activations
@click.option(
    "--yes-run-code", "allowed", is_flag=True, help="Run on this machine what the model writes."
)
@click.option(
    "--solutions", default="", metavar="FILE", help="Completions made elsewhere; no model is used."
)
@click.option(
    "--samples", default=1, show_default=True, type=click.IntRange(1), help="Of each problem."
)
@click.option(
    "--max-tokens", "-n", default=256, show_default=True, type=click.IntRange(1),
    help="New tokens at most.",
)  # fmt: skip
@click.option(
    "--seconds", default=5.0, show_default=True, type=click.FloatRange(min=0.1, max=3600),
    help="Time for the tests of one completion.",
)  # fmt: skip
@options.as_json
@options.sampling
def problems(
    file: str | None, model: str, backend: str, activations: str | None, allowed: bool, solutions: str,
    samples: int, max_tokens: int, seconds: float, as_json: bool, **controls: Any,
) -> None:  # fmt: skip
    """Let a model solve the problems in FILE, and run their tests; without FILE, those of lcm's own set.

    \b
    lcm eval problems --yes-run-code
    lcm eval problems HumanEval.jsonl --model qwen2.5-coder --yes-run-code
    lcm eval problems mbpp.jsonl --samples 10 -t 0.8 --seed 1 --yes-run-code --json
    lcm eval problems HumanEval.jsonl --solutions made-elsewhere.jsonl --yes-run-code

    FILE has a problem a line, as HumanEval or MBPP have them; that of --solutions a task_id and a completion.
    """
    if not allowed:
        raise click.UsageError(
            "this runs code that a model wrote, on this machine; say so if you want it: --yes-run-code"
        )
    from lcm.evaluation.problems import OWN, read_problems, read_solutions
    from lcm.evaluation.sandbox import namespaces
    from lcm.evaluation.solving import try_all

    wanted, sampling = read_problems(file or OWN), options.take_sampling(controls)
    cut_off = bool(namespaces())
    click.echo(f"lcm: note: {CUT_OFF if cut_off else NOT_CUT_OFF}", err=True)
    with options.on_backend(backend):
        if solutions:
            given = read_solutions(solutions, wanted)
            texts = (given[problem.name] for problem in wanted)
        else:
            from lcm.evaluation.running import load_running
            from lcm.evaluation.solving import completions

            loaded = load_running(model, activations)
            how = {"samples": samples, "max_tokens": max_tokens, "sampling": sampling}
            texts = (completions(loaded, problem, **how) for problem in wanted)
        tried = []
        for one in try_all(wanted, texts, seconds=seconds):
            tried.append(one)
            if not as_json:
                click.echo(_fared(one))
    _tell_passed(tried, cut_off, as_json)


CUT_OFF = (
    "code that a model wrote is run here: with limits of time, memory and files, "
    "cut off from the network and other processes"
)
NOT_CUT_OFF = (
    "code that a model wrote is run here: with limits of time, memory and files; the system does not cut it "
    "off from the network and other processes (no unshare here), only Python's own functions refuse"
)


def _fared(one: Any) -> str:
    """A line on one problem."""
    count = len(one.outcomes)
    if one.passed == count == 1:
        return f"{one.name:24} passed"
    why = next((o.reason for o in one.outcomes if not o.passed), "")
    share = f"{one.passed} of {count} passed" if count > 1 else "failed"
    return f"{one.name:24} {share}{': ' if why else ''}{why}"


def _tell_passed(tried: list[Any], cut_off: bool, as_json: bool) -> None:
    from lcm.evaluation.solving import pass_at

    most = min(len(one.outcomes) for one in tried)
    shares = {f"pass@{k}": pass_at(k, tried) for k in sorted({1, 10, 100, most}) if k <= most}
    if not as_json:
        for name, share in shares.items():
            click.echo(f"{name:24} {share:.4f} of {len(tried)} problems")
        return
    rows = [
        {"task_id": one.name, "completions": [
            {"completion": text, "passed": o.passed, "reason": o.reason, "seconds": o.seconds}
            for text, o in zip(one.completions, one.outcomes, strict=True)
        ]} for one in tried
    ]  # fmt: skip
    options.print_json({**shares, "network_cut_off": cut_off, "problems": rows})


def _as_run(loaded: Any) -> dict[str, str]:
    """What the weights meet in products, and how keys and values are kept."""
    from lcm import settings
    from lcm.evaluation.running import activations_of

    return {
        "activations": activations_of(loaded.model),
        "cache_format": settings.get("cache_format"),
    }


LONGEST = 2048  # tokens of a window if not said otherwise: what is far away helps little


def _text(
    paths: tuple[str, ...], *models: Any, context: int | None, batch: int, limit: int
) -> Any:  # fmt: skip
    """The files as batches of tokens for these models, whose tokenizers must agree on them."""
    from lcm.errors import UsageError
    from lcm.evaluation.text import as_split, windows
    from lcm.train.corpus import collect

    longest = min(loaded.model.context for loaded in models)
    if context and context > longest:
        raise UsageError(f"--context {context} is more than the model's {longest}")
    corpus, first = collect(list(paths)), models[0].tokenizer
    split, *others = (as_split(corpus, loaded.tokenizer) for loaded in models)
    for other, loaded in zip(others, models[1:], strict=True):
        if list(other.read(0, other.tokens)) != list(split.read(0, split.tokens)):
            raise UsageError(
                f"{loaded.folder} has another tokenizer than {models[0].folder}: it cuts the text otherwise"
            )
    return windows(
        split, first, batch=batch, context=context or min(longest, LONGEST), limit=limit or None
    )


def _tell(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        options.print_json(record)
        return
    width = max(map(len, record))
    for name, value in record.items():
        if not name.endswith("_error"):
            error = record.get(f"{name}_error")
            more = "" if error is None else f" ± {error:.2g}"
            click.echo(f"{name.replace('_', ' '):{width}} {_number(value)}{more}")


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4f}" if abs(value) >= 0.01 or value == 0 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
