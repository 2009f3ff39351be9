"""lcm bench generate: how fast a model takes in a prompt and writes, and what of that is not computing."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lcm.backend import dispatch
from lcm.backend.measure import settle
from lcm.bench import machine
from lcm.bench.results import Results, Row, Value, until_interrupted
from lcm.errors import UsageError
from lcm.generate.decoder import Decoder
from lcm.generate.loading import find_model, load_model
from lcm.generate.sampling import Sampler, Sampling
from lcm.generate.text_model import TextModel
from lcm.models.summary import Summary, summary

WARM = 3  # tokens that are not counted: buffers grow, the program is recorded
REPLAYS = 30  # of a token's program, to time what is in it

# Where the calls are made that are not kernels: an op's body, in numpy.
BODIES = ("lcm.ops", "lcm.primitives", "lcm.tensor")

# llama-bench's, of llama.cpp; the others are figures of a row.
COLUMNS = ("model", "size", "params", "backend", "threads", "test", "t/s")

TESTS = (
    "pp512: a prompt of 512 tokens, tg128: 128 tokens one by one, @ d1024: behind 1024 others, as in "
    "llama-bench; mean ± deviation of the repetitions"
)
INSIDE = (
    "outside kernels: the part of a token's time that is spent in Python and in numpy, which runs the "
    "bodies of ops that no backend has a kernel for; its choice and its text come on top: choice ms"
)


@dataclass(frozen=True)
class Test:
    """So many tokens, taken in at once (pp) or one by one (tg), behind so many others."""

    depth: int
    kind: str
    tokens: int

    def __str__(self) -> str:
        return f"{self.kind}{self.tokens}" + (f" @ d{self.depth}" if self.depth else "")

    @property
    def needs(self) -> int:
        """Tokens that the model's context has to hold."""
        return self.depth + self.tokens + (1 + WARM if self.kind == "tg" else 0)


def run(
    model: str = "", *, prompts: Sequence[int] = (512,), tokens: Sequence[int] = (128,),
    depths: Sequence[int] = (0,), repetitions: int = 5, price: float | None = None,
    progress: machine.Progress = str,
) -> Results:  # fmt: skip
    """Prompts and texts of so many random tokens, each behind each of `depths`; 0 leaves one out.

    A row's seconds are those of every prompt, or of every token that was written.
    """
    here = machine.record()
    folder = find_model(model)
    size = summary(folder)  # which maps the files too: before they are mapped to stay
    loaded = load_model(folder)
    counts = {"pp": prompts, "tg": tokens}
    tests = [Test(d, kind, n) for d in depths for kind, some in counts.items() for n in some if n]
    _check(tests, repetitions, loaded.model.context)
    rows: list[Row] = []
    with until_interrupted(rows) as stopped:
        for test in tests:
            progress(f"{folder.name}: {test}")
            measure = _prompt if test.kind == "pp" else _text
            seconds, rates, more = measure(loaded, test, repetitions)
            case = {"model": folder.name, "test": str(test), "threads": here["threads"]}
            rows.append(Row(case, seconds, {**_rate(rates, price), **more}))
    about = _about(size)
    told = tuple(Row(row.case, row.seconds, {**about, **row.figures}) for row in rows)
    return Results("generate", here, told, (machine.who_ran(), TESTS, INSIDE, *stopped))


def table(results: Results) -> str:
    """llama-bench's table, in Markdown."""
    rows = (_cells({**row.case, **row.figures}) for row in results.rows)
    rule = ("---", "---:", "---:", "---", "---:", "---:", "---:")
    lines = ["| " + " | ".join(line) + " |" for line in (COLUMNS, rule, *rows)]
    remarks = [f"- {remark}" for remark in results.remarks if remark != INSIDE]
    return "\n".join([machine.in_words(results.machine), "", *lines, "", *remarks])


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    told = {
        "size": f"{row['size'] / (1 << 20):.2f} MiB",
        "params": f"{row['params'] / 1e6:.2f} M",
        "t/s": f"{row['tokens/s']:.2f} ± {row['± tokens/s']:.2f}",
    }
    return tuple(str({**row, **told}[column]) for column in COLUMNS)


def _check(tests: Sequence[Test], repetitions: int, context: int) -> None:
    if not tests or repetitions < 1:
        raise UsageError("nothing to measure: --prompt, --tokens and --repetitions leave no test")
    if (largest := max(tests, key=lambda test: test.needs)).needs > context:
        raise UsageError(
            f"{largest} does not fit the model's context of {context}: it needs {largest.needs} tokens; "
            "ask for fewer with --prompt, --tokens or --depth"
        )


def _about(size: Summary) -> dict[str, Value]:
    """What the model is, and what it ran on."""
    backends = sorted({name for names in dispatch.ran().values() for name in names})
    return {"size": size.weights, "params": size.parameters, "backend": ", ".join(backends)}


def _rate(rates: Sequence[float], price: float | None) -> dict[str, Value]:
    mean, spread = statistics.fmean(rates), statistics.stdev(rates) if len(rates) > 1 else 0.0
    return {"tokens/s": mean, "± tokens/s": spread, **machine.cost(price, mean)}


Measured = tuple[tuple[float, ...], list[float], dict[str, Value]]  # seconds, tokens a second, more


def _prompt(loaded: TextModel, test: Test, repetitions: int) -> Measured:
    """Prompts, after one that is not counted."""
    ids = _random(loaded, test.tokens)
    seconds = []
    for _ in range(1 + repetitions):
        decoder = _behind(loaded, test.depth)
        seconds.append(_seconds(partial(decoder.prefill, ids)))
        del decoder  # else its memory stays until the next one has its own
    counted = tuple(seconds[1:])
    return counted, [test.tokens / s for s in counted], {"peak MiB": machine.peak_memory()}


def _text(loaded: TextModel, test: Test, repetitions: int) -> Measured:
    """Texts, each with some first tokens that are not counted, and what is in a token's time."""
    seconds: list[float] = []
    choices: list[float] = []
    for _ in range(repetitions):
        decoder = _behind(loaded, test.depth)
        for step, choice in _tokens(loaded, decoder, WARM + test.tokens)[WARM:]:
            seconds.append(step)
            choices.append(choice)
    kernels, bodies = inside(decoder)
    rates = [1 / statistics.fmean(some) for some in np.split(np.array(seconds), repetitions)]
    return tuple(seconds), rates, {
        "outside kernels": max(0.0, 1 - kernels / statistics.median(seconds)),
        "kernels ms": 1e3 * kernels,
        "bodies ms": 1e3 * bodies,
        "choice ms": 1e3 * statistics.median(choices),
        "peak MiB": machine.peak_memory(),
    }  # fmt: skip


def _tokens(loaded: TextModel, decoder: Decoder, count: int) -> list[tuple[float, float]]:
    """The seconds of each token's step, and of its choice and its text."""
    ids = _random(loaded, 1)
    sampler, text = Sampler(Sampling(), ids), loaded.tokenizer.stream(after=ids)
    logits = decoder.prefill(ids)
    found = []
    for _ in range(count):
        started = time.perf_counter()
        token, _ = sampler.choose(logits[: loaded.tokenizer.vocabulary])
        text.push(token)
        chosen = time.perf_counter()
        logits = decoder.step(token)
        found.append((time.perf_counter() - chosen, chosen - started))
    return found


def _behind(loaded: TextModel, depth: int) -> Decoder:
    """A decoder that has taken in so many tokens."""
    decoder = Decoder(loaded.model)
    if depth:
        decoder.prefill(_random(loaded, depth))
    settle()
    return decoder


def _random(loaded: TextModel, count: int) -> list[int]:
    vocabulary = min(loaded.tokenizer.vocabulary, loaded.model.vocabulary)
    ids: list[int] = np.random.default_rng(0).integers(0, vocabulary, count).tolist()
    return ids


def inside(decoder: Decoder) -> tuple[float, float]:
    """Seconds that a token's program spends in kernels, and in ops' bodies; the last token runs again."""
    assert decoder.program is not None, "a token has been decoded"
    spent = {False: 0.0, True: 0.0}
    with np.errstate(all="ignore"):
        times = [[_seconds(call) for call in decoder.program.calls] for _ in range(REPLAYS)]
    for call, its in zip(decoder.program.calls, zip(*times, strict=True), strict=True):
        spent[is_body(call)] += statistics.median(its)
    return spent[False], spent[True]


def is_body(call: Callable[[], object]) -> bool:
    """Whether a program's call is part of an op's body, and not a kernel."""
    function: object = call
    while isinstance(function, partial):
        function = function.func
    module = getattr(function, "__module__", None) or type(function).__module__
    return module.startswith(BODIES)


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
