"""One kernel under test: its trials, and calls of it that can be made again."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from lcm.backend.contract import Kernel
from lcm.backend.guards import Guarded
from lcm.backend.native import CODES
from lcm.backend.selftest import parse
from lcm.errors import KernelError
from lcm.ops.cases import in_blocks
from lcm.testing import edges
from lcm.testing.examination import Examination, examine, guard, prepare, wrong
from lcm.testing.shapes import LEVELS, Level, busy
from lcm.testing.subject import Subject
from lcm.testing.trial import Arguments, Trial, subsets, trials


@dataclass(frozen=True)
class Candidate:
    """A kernel of a backend, and the level at which it is candidate."""

    subject: Subject
    symbol: str
    level_name: str

    def __str__(self) -> str:
        return f"{self.subject.backend.name}-{self.symbol}"

    @property
    def kernel(self) -> Kernel:
        return self.subject.kernels[self.symbol]

    @property
    def level(self) -> Level:
        return LEVELS[self.level_name]

    def examined(self) -> Examination:
        """What all its trials came to; made once."""
        return _examined(self)

    def deaths(self) -> edges.Deaths:
        """What all the backend's kernels came to in child processes; made once."""
        return deaths(self.subject, self.level_name)

    def some(self, count: int) -> Iterator[Trial]:
        """About so many trials of the level, spread over all; without sizes of 0."""
        every = [t for t in trials(self.symbol, self.level_name) if 0 not in t.sizes.values()]
        step = max(1, len(every) // count)
        yield from every[step // 2 :: step]

    def busy(self, count: int) -> Iterator[Trial]:
        """Trials with work for several threads."""
        op, format, is_gradient = parse(self.symbol)
        wanted = subsets(op, format)[0] if is_gradient else ()
        for i, sizes in enumerate(busy(op, count)):
            yield Trial(self.symbol, in_blocks(op, format, sizes), wanted=wanted, seed=i)

    def runs(self, chosen: Iterable[Trial]) -> "Iterator[Run]":
        """The calls of these trials, made once; those are left out that the kernel refuses."""
        for trial in chosen:
            prepared = prepare(trial)
            if prepared is not None and (run := Run.of(self.kernel, trial, *prepared)):
                yield run


_examined = cache(
    lambda candidate: examine(candidate.symbol, candidate.kernel, candidate.level_name)
)
deaths = cache(edges.run)


@dataclass(frozen=True)
class Run:
    """A bound call, with its arguments between guards and the right results."""

    trial: Trial
    arguments: Arguments
    want: Mapping[str, np.ndarray]
    guarded: Guarded
    call: Callable[[], object]

    @staticmethod
    def of(
        kernel: Kernel, trial: Trial, arguments: Arguments, want: dict[str, np.ndarray]
    ) -> "Run | None":
        """Bind, and call once; None if the kernel does not support the arguments."""
        guarded = guard(trial, arguments)
        try:
            call = kernel(guarded.arguments)
            call()
        except KernelError as error:
            if CODES[1] in str(error):
                return None
            raise
        return Run(trial, arguments, want, guarded, call)

    def again(self) -> None:
        """Call it once more, with everything as it was before the first time."""
        self.guarded.restore()
        self.call()

    def bits(self) -> dict[str, bytes]:
        return {name: self.guarded.arguments[name].tobytes() for name in self.trial.results}

    def problems(self, when: str = "") -> Iterator[str]:
        """What is wrong with the results as they are now."""
        for problem in wrong(self.trial, self.arguments, dict(self.want), self.guarded.arguments):
            yield f"{self.trial}{when}: {problem}"
        for trespass in self.guarded.trespasses():
            yield f"{self.trial}{when}: {trespass}"
