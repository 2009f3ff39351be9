"""Every error that lcm raises, and the exit code with which the command ends on it.

    LcmError
    ├── UsageError       an argument, option or setting that cannot be meant (also ValueError)
    ├── ShapeError       two shapes that do not fit (also ValueError)
    ├── FormatError      a number format where another is needed (also TypeError)
    ├── HostError        a host record that cannot be read or replayed (also ValueError)
    ├── BackendError     a backend that is not here, or that failed (also RuntimeError)
    │   └── KernelError  a kernel that returned an error code
    ├── FileError        a file that is damaged, unfit or not what it says (also ValueError)
    ├── DataError        source code or tokens that cannot be trained on (also ValueError)
    ├── ContextError     more tokens than the model's context holds (also ValueError)
    ├── NumericsError    numbers of a model that are infinite or not-a-number (also ArithmeticError)
    └── TrainingError    a run that has to stop: not-a-number, a spike, a full disk (also RuntimeError)

A message is one line: what, where, and what would do. The command prints it behind `lcm: ` and ends
with the class's `exit_code`; a traceback is for our own mistakes.
"""


class LcmError(Exception):
    """The root: `except LcmError` catches whatever lcm raises on purpose."""

    exit_code = 1

    def __str__(self) -> str:
        """The message, with an escape for whatever a terminal would obey: names may hold anything."""
        text = super().__str__()
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class UsageError(LcmError, ValueError):
    """An argument, option or setting that cannot be meant."""

    exit_code = 2


class ShapeError(LcmError, ValueError):
    """Two shapes that do not fit."""


class FormatError(LcmError, TypeError):
    """A number format where another is needed."""


class HostError(LcmError, ValueError):
    """A host record that cannot be read or replayed."""

    exit_code = 2


class BackendError(LcmError, RuntimeError):
    """A backend that is not here, or that failed."""

    exit_code = 3


class KernelError(BackendError):
    """A kernel that returned an error code."""


class FileError(LcmError, ValueError):
    """A file that is damaged, unfit or not what it says."""

    exit_code = 4


class DataError(LcmError, ValueError):
    """Source code or tokens that cannot be trained on."""

    exit_code = 4


class ContextError(LcmError, ValueError):
    """More tokens than the model's context holds."""

    exit_code = 2


class NumericsError(LcmError, ArithmeticError):
    """Numbers of a model that are infinite or not-a-number."""


class TrainingError(LcmError, RuntimeError):
    """A run that has to stop: not-a-number, a spike, a full disk."""

    exit_code = 5


class LcmWarning(UserWarning):
    """Something that degrades visibly; the command prints it as one `lcm: note:` line."""
