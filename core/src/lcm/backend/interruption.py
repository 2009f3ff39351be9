"""Signals while a kernel runs: what their handlers raise is kept until the kernel has returned."""

from collections.abc import Iterator


class _Kept:
    error: BaseException | None = None


_kept = _Kept()


def answers() -> Iterator[int]:
    """What a kernel is told each time that it asks: 0 to go on, or 1 since a handler has raised.

    Python runs the handlers when it goes on in a generator, inside the generator's `try`. When it enters
    a function it runs them too, but before any `try`, and C code that has called cannot take what they raise.
    """
    answer = 0
    while True:
        try:
            while True:
                try:
                    yield answer
                    answer = 0
                except GeneratorExit:
                    return
                except BaseException as error:
                    _kept.error = error
                    answer = 1
        except BaseException as error:  # of another signal, that came in that very moment
            _kept.error = error
            answer = 1


def take() -> BaseException | None:
    """What a handler raised since this was last asked."""
    error, _kept.error = _kept.error, None
    return error
