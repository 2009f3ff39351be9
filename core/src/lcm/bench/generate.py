"""lcm bench generate: how fast a model takes in a prompt and writes, and what of that is not computing."""

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from lcm.bench import machine
from lcm.bench.results import Results, Row, Value
from lcm.bench.timing import repeat
from lcm.errors import UsageError
from lcm.generate.decoder import Decoder
from lcm.generate.loading import load_model
from lcm.generate.sampling import Sampler, Sampling
from lcm.generate.text_model import TextModel

WARM = 3  # tokens that are not counted: buffers grow, the program is recorded
REPLAYS = 30  # of a token's program, to time what is in it

# Where the calls are made that are not kernels: an op's body, in numpy.
BODIES = ("lcm.ops", "lcm.primitives", "lcm.tensor")


def run(
    model: str = "", *, prompt: int = 128, tokens: int = 64, budget: float = 5.0,
    price: float | None = None, progress: machine.Progress = str,
) -> Results:  # fmt: skip
    """A prompt of random tokens, and as many tokens after it, both for about `budget` seconds."""
    here = machine.record()
    loaded = load_model(model)
    if prompt < 1 or tokens < 1 or prompt + tokens + WARM > loaded.model.context:
        raise UsageError(
            f"--prompt {prompt} and --tokens {tokens} do not fit the model's context of "
            f"{loaded.model.context}, with {WARM} more to warm up"
        )
    name = loaded.folder.name if loaded.folder else "model"
    ids = np.random.default_rng(0).integers(0, loaded.tokenizer.vocabulary, prompt).tolist()
    progress(f"{name}: prompts of {prompt} tokens")
    seconds = repeat(lambda: Decoder(loaded.model).prefill(ids), budget=budget)
    prefill = Row({"model": name, "phase": "prefill", "tokens": prompt}, seconds)
    progress(f"{name}: {tokens} tokens after {prompt}")
    seconds, decoder = _write(loaded, ids, tokens, budget)
    decode = Row({"model": name, "phase": "decode", "tokens": tokens}, seconds)
    kernels, bodies = inside(decoder)
    split: dict[str, Value] = {
        "outside kernels": max(0.0, 1 - kernels / decode.median),
        "kernels ms": 1e3 * kernels,
        "bodies ms": 1e3 * bodies,
        "peak MiB": machine.peak_memory(),
    }
    rows = (
        _with_rate(prefill, prompt, price, {}),
        _with_rate(decode, 1, price, split),
    )
    return Results("generate", here, rows, (machine.who_ran(), *REMARKS))


REMARKS = (
    "prefill: a whole prompt; decode: a token, with the choice of it and its text",
    "outside kernels: the part of a token's time that is spent in Python and in numpy, which runs the "
    "bodies of ops that no backend has a kernel for",
)


def _with_rate(row: Row, tokens: int, price: float | None, more: dict[str, Value]) -> Row:
    rate = tokens / row.median
    figures: dict[str, Value] = {"tokens/s": rate, **machine.cost(price, rate), **more}
    return Row(row.case, row.seconds, figures)


def _write(
    loaded: TextModel, ids: list[int], tokens: int, budget: float
) -> tuple[tuple[float, ...], Decoder]:
    """The seconds of each token, of as many texts as the budget allows, and the last text's decoder."""
    seconds: list[float] = []
    until = time.perf_counter() + budget
    while not seconds or time.perf_counter() < until:
        decoder, sampler = Decoder(loaded.model), Sampler(Sampling(), ids)
        text = loaded.tokenizer.stream(after=ids)
        logits = decoder.prefill(ids)
        for count in range(WARM + tokens):
            started = time.perf_counter()
            token, _ = sampler.choose(logits[: loaded.tokenizer.vocabulary])
            text.push(token)
            logits = decoder.step(token)
            if count >= WARM:
                seconds.append(time.perf_counter() - started)
    return tuple(seconds), decoder


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
