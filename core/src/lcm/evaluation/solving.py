"""Solving problems: completions by a model, tried one after another, and the share that passes."""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from lcm.errors import LcmWarning, UsageError
from lcm.evaluation.problems import Problem
from lcm.evaluation.sandbox import Outcome, attempt
from lcm.generate.sampling import Sampling
from lcm.generate.text_model import TextModel


@dataclass(frozen=True)
class Tried:
    """A problem, and how each completion of it fared."""

    name: str
    completions: tuple[str, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> int:
        return sum(outcome.passed for outcome in self.outcomes)


def completions(
    model: TextModel, problem: Problem, *, samples: int = 1, max_tokens: int = 256,
    sampling: Sampling | None = None,
) -> list[str]:  # fmt: skip
    """So many continuations of the problem's prompt, each to the end of its function.

    None of them says anything where the prompt fills the model's context, which is told by a warning.
    `UsageError` for several samples of a greedy choice.
    """
    sampling = sampling or Sampling()
    if samples > 1 and sampling.temperature == 0:
        raise UsageError(
            f"{samples} samples of the likeliest tokens are the same; give a temperature"
        )
    prompt = problem.prompt.rstrip()  # models begin a line with its line break and indentation
    taken = len(model.prompt_ids(prompt, max_tokens))
    room = model.model.context - taken
    if room < 1:
        warnings.warn(
            LcmWarning(
                f"{problem.name}: its prompt of {taken} tokens fills the model's context of "
                f"{model.model.context}, and is left unanswered"
            ),
            stacklevel=2,
        )
        return [""] * samples
    seeds = [None if sampling.seed is None else sampling.seed + i for i in range(samples)]
    return [
        model.complete(
            prompt, max_tokens=min(max_tokens, room), sampling=replace(sampling, seed=seed),
            stop=problem.stop,
        ).text
        for seed in seeds
    ]  # fmt: skip


def try_all(
    problems: Sequence[Problem], completed: Iterable[Sequence[str]], *, seconds: float
) -> Iterator[Tried]:
    """Each problem with its completions, run as soon as these are there."""
    for problem, texts in zip(problems, completed, strict=True):
        outcomes = tuple(attempt(problem.program(text), seconds=seconds) for text in texts)
        yield Tried(problem.name, tuple(texts), outcomes)


def pass_at(k: int, tried: Sequence[Tried]) -> float:
    """The chance that one of k completions passes, without bias: the mean of 1 - C(n - c, k) / C(n, k).

    n completions of a problem, of which c passed (Chen et al., 2021); k is n at most.
    """
    misses = [
        math.comb(len(t.outcomes) - t.passed, k) / math.comb(len(t.outcomes), k) for t in tried
    ]
    return 1 - sum(misses) / len(misses)
