"""Sets of problems: what a model is to continue, and the tests that its continuation has to pass.

A set is a file of JSON lines in the form of HumanEval (Chen et al., 2021) or of MBPP (Austin et al., 2021).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcm.errors import FileError

OWN = Path(__file__).with_name("problems.jsonl")
# Where a function is over, and something else begins.
FUNCTION_ENDS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\n@", "\nassert ", '\n"""')
# The same where the function is still to be written, perhaps behind others.
PROGRAM_ENDS = ("\nassert ", "\nprint(", "\nif __name__", '\n"""', "\n#")


@dataclass(frozen=True)
class Problem:
    """A beginning of a program, and the tests behind its end."""

    name: str
    prompt: str
    solution: str  # a continuation that passes
    tests: str
    stop: tuple[str, ...]

    def program(self, completion: str) -> str:
        """The whole, which raises if the completion is wrong."""
        return f"{self.prompt}{completion}\n{self.tests}\n"


def read_problems(path: str | Path = OWN) -> tuple[Problem, ...]:
    """The problems of a file; our own set if none is named. `FileError` says which line is unfit."""
    problems = tuple(_problem(record, where) for where, record in _lines(Path(path)))
    names = [problem.name for problem in problems]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise FileError(
            f"{path}: the task_id {twice!r} is there twice; every problem needs its own"
        )
    if not problems:
        raise FileError(f"{path}: no problem in it; it should have one a line, as JSON")
    return problems


def read_solutions(path: str | Path, problems: tuple[Problem, ...]) -> dict[str, list[str]]:
    """The completions of a file (lines with `task_id` and `completion`) by problem, one of each at least."""
    found: dict[str, list[str]] = {problem.name: [] for problem in problems}
    for where, record in _lines(Path(path)):
        name = str(_field(record, where, "task_id", (str, int)))
        if name not in found:
            raise FileError(f"{where}: no problem is named {name!r}; is this file for another set?")
        found[name].append(_field(record, where, "completion", str))
    if missing := [name for name, completions in found.items() if not completions]:
        raise FileError(
            f"{path}: no completion for {len(missing)} problems, such as {missing[0]!r}; every one needs one"
        )
    return found


def _problem(record: dict[str, Any], where: str) -> Problem:
    def text(name: str) -> str:
        return str(_field(record, where, name, str))

    name = str(_field(record, where, "task_id", (str, int)))
    if "test_list" not in record:
        tests = f"{text('test')}\ncheck({text('entry_point')})"
        return Problem(name, text("prompt"), text("canonical_solution"), tests, FUNCTION_ENDS)
    asserts = _texts(record, where, "test_list")
    if not asserts:
        raise FileError(f"{where}: 'test_list' is empty; a problem needs a test")
    before = text("test_setup_code") if "test_setup_code" in record else ""
    if "test_imports" in record:
        before = "\n".join(_texts(record, where, "test_imports"))
    told = "\n".join([text("text" if "text" in record else "prompt"), *asserts])
    tests = "\n".join([before, *asserts])
    return Problem(name, f'"""\n{_quoted(told)}\n"""\n', text("code"), tests, PROGRAM_ENDS)


def _texts(record: dict[str, Any], where: str, name: str) -> list[str]:
    values = _field(record, where, name, list)
    if not all(isinstance(value, str) for value in values):
        raise FileError(f"{where}: {name!r} must be a list of texts")
    return list(values)


def _quoted(text: str) -> str:
    """As it may stand between triple quotes."""
    return text.replace("\\", "\\\\").replace('"""', "'''")


def _field(record: dict[str, Any], where: str, name: str, kind: Any) -> Any:
    if not isinstance(record.get(name), kind):
        there = ", ".join(record) or "none"
        what = "is of the wrong kind" if name in record else "is missing"
        raise FileError(f"{where}: {name!r} {what}; its keys: {there}")
    return record[name]


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Each line's place and its object."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None
    places = ((f"{path}:{number}", line) for number, line in enumerate(lines, 1) if line.strip())
    return [(where, _object(line, where)) for where, line in places]


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise FileError(f"{where}: cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise FileError(f'{where}: a line must be one object, as {{"task_id": …}}')
    return value
