"""Problems: what a set may hold, programs that are confined whatever they do, and the share that passes."""

import ast
import itertools
import json
import math
import os
import time

import pytest

from lcm import models
from lcm.errors import FileError, LcmWarning, UsageError
from lcm.evaluation import sandbox
from lcm.evaluation.problems import PROGRAM_ENDS, read_problems, read_solutions
from lcm.evaluation.sandbox import Outcome, attempt
from lcm.evaluation.solving import Tried, completions, pass_at, try_all
from lcm.generate.sampling import Sampling
from lcm.generate.text_model import TextModel
from lcm.text.tokenizer import Tokenizer

HUMAN_EVAL = {"task_id": "a/1", "prompt": "def one():\n", "canonical_solution": "    return 1\n",
              "test": "def check(f):\n    assert f() == 1\n", "entry_point": "one"}  # fmt: skip
MBPP = {"task_id": 2, "text": 'Give 2, "\\n" and """.', "code": "def two():\n    return log2(4)\n",
        "test_list": ["assert two() == 2"], "test_setup_code": "from math import log2"}  # fmt: skip

own = read_problems()
every_problem = pytest.mark.parametrize("problem", own, ids=[p.name for p in own])


def write(path, *records):
    path.write_text("".join(json.dumps(r) + "\n\n" for r in records), encoding="utf-8")
    return path


# Sets.


@every_problem
def test_our_solution_passes_and_every_mutant_of_it_fails(problem):
    assert attempt(problem.program(problem.solution)).passed
    mutants = list(mutated(problem.prompt + problem.solution))
    assert mutants
    for mutant in mutants:
        assert not attempt(f"{mutant}\n{problem.tests}", seconds=2).passed, mutant


OTHER = {ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq,
         ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add,
         ast.Mult: ast.Add, ast.Mod: ast.FloorDiv, ast.FloorDiv: ast.Mod, ast.And: ast.Or,
         ast.Or: ast.And}  # fmt: skip


def mutated(source):
    """The source with one operator for another, one number larger by 1, or one slice without its end."""
    for i in itertools.count():
        tree = ast.parse(source)
        node = next(itertools.islice(places(tree), i, None), None)
        if node is None:
            return
        if isinstance(node, ast.Compare):
            node.ops[0] = OTHER[type(node.ops[0])]()
        elif isinstance(node, ast.Constant):
            node.value += 1
        elif isinstance(node, ast.Slice):
            node.upper = None
        else:
            node.op = OTHER[type(node.op)]()
        yield ast.unparse(tree)


def places(tree):
    for node in ast.walk(tree):
        operator = (
            isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in OTHER
        )
        number = isinstance(node, ast.Constant) and type(node.value) is int
        if operator or number or isinstance(node, ast.Compare) or getattr(node, "upper", None):
            yield node


def test_both_forms_are_read_and_their_solutions_pass(tmp_path):
    other = {"task_id": 3, "prompt": "Give 3.", "code": "def three():\n    return 3",
             "test_imports": ["import math"], "test_list": ["assert three() == math.sqrt(9)"]}  # fmt: skip
    problems = read_problems(write(tmp_path / "set.jsonl", HUMAN_EVAL, MBPP, other))
    assert [p.name for p in problems] == ["a/1", "2", "3"]
    assert problems[1].stop == problems[2].stop == PROGRAM_ENDS
    for problem in problems:
        assert attempt(problem.program(problem.solution)).passed
        assert not attempt(problem.program("    pass\n")).passed
    said = ast.literal_eval(problems[1].prompt.strip()).strip()
    assert said == "Give 2, \"\\n\" and '''.\nassert two() == 2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no problem in it"),
        ("{", "set.jsonl:1: cannot be read as JSON"),
        ("[]", "set.jsonl:1: a line must be one object"),
        (json.dumps({"task_id": 1}), "set.jsonl:1: 'test' is missing; its keys: task_id"),
        (json.dumps(HUMAN_EVAL | {"prompt": 1}), "'prompt' is of the wrong kind"),
        (json.dumps(HUMAN_EVAL | {"test": None}), "'test' is of the wrong kind"),
        (json.dumps(MBPP | {"test_list": []}), "'test_list' is empty"),
        (json.dumps(MBPP | {"test_list": [1]}), "'test_list' must be a list of texts"),
        (json.dumps(MBPP | {"test_setup_code": ["x"]}), "'test_setup_code' is of the wrong kind"),
        (json.dumps(MBPP | {"test_imports": [1]}), "'test_imports' must be a list of texts"),
        (f"{json.dumps(MBPP)}\n{json.dumps(MBPP)}", "the task_id '2' is there twice"),
    ],
)
def test_an_unfit_set_is_refused_with_its_line(tmp_path, text, said):
    path = tmp_path / "set.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FileError) as caught:
        read_problems(path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_solutions_belong_to_their_problems_and_none_may_be_missing(tmp_path):
    problems = read_problems(write(tmp_path / "set.jsonl", HUMAN_EVAL, MBPP))
    lines = [("a/1", "x"), (2, "y"), ("a/1", "z")]
    given = [{"task_id": name, "completion": text} for name, text in lines]
    assert read_solutions(write(tmp_path / "all", *given), problems) == {
        "a/1": ["x", "z"],
        "2": ["y"],
    }
    with pytest.raises(FileError, match="no completion for 1 problems, such as '2'"):
        read_solutions(write(tmp_path / "one", given[0]), problems)
    with pytest.raises(FileError, match="other:1: no problem is named 'b'"):
        read_solutions(write(tmp_path / "other", {"task_id": "b", "completion": ""}), problems)


# The sandbox.

DEEP = "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()"
WILD = {
    "an endless loop": ("while True: pass", "did not come to an end"),
    "sleep": ("import time\ntime.sleep(99)", "did not come to an end"),
    "hiding from every error": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass", "did not come"
    ),
    "a memory hog": ("x = [0]\nwhile True: x += x", ""),
    "one huge list": ("[0] * 10**10", "MemoryError"),
    "forks": ("import os\nwhile True: os.fork()", "os.fork is not allowed"),
    "a program": ("import subprocess\nsubprocess.run(['true'])", "subprocess.Popen is not allowed"),
    "a shell": ("import os\nos.system('true')", "os.system is not allowed"),
    "exit": ("import sys\nsys.exit(0)", "SystemExit: 0"),
    "exit at once": ("import os\nos._exit(0)", "ended before the tests did, with code 0"),
    "a flood of output": ("while True: print('x' * 1000)", "did not come to an end"),
    "a flood into every file": (
        "import os\nfor n in range(99):\n    try:\n        while True: os.write(n, b'x' * 4096)\n"
        "    except OSError: pass\nos._exit(0)", ""
    ),
    "a forged verdict": (
        "import os\nfor n in range(99):\n    try: os.write(n, b'{\"passed\": \"\"}')\n"
        "    except OSError: pass\nos._exit(0)", "ended before the tests did"
    ),
    "killing its parent": ("import os\nos.kill(os.getppid(), 9)", "os.kill is not allowed"),
    "killing everyone": ("import os\nos.kill(-1, 9)", "os.kill is not allowed"),
    "killing its group": ("import os\nos.killpg(0, 9)", "os.killpg is not allowed"),
    "reading what nobody writes": ("input()", "EOFError"),
    "endless recursion": ("def f(): f()\nf()", "RecursionError"),
    "recursion without a limit": (DEEP, ""),
    "closing every file": ("import os\nos.closerange(0, 99)", "ended before the tests did"),
    "foreign functions": ("import ctypes\nctypes.CDLL(None).abort()", "is not allowed"),
    "a connection": ("import socket\nsocket.create_connection(('127.0.0.1', 9))", "is not allowed"),
    "a full disk": ("open('big', 'w').write('x' * 10**8)", "OSError"),
    "another folder": ("import os\nos.chdir('/')", "os.chdir is not allowed"),
    "no Python": ("def f(:", "SyntaxError: invalid syntax, in line 1: def f(:"),
    "a null": ("\0", ""),
    "interrupting": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "threads": ("import threading as t\nt.Thread(target=print).start()\nwhile True: pass", ""),
}  # fmt: skip


@pytest.mark.parametrize("program", WILD)
def test_a_program_may_do_what_it_likes_and_has_only_failed(program):
    source, said = WILD[program]
    started = time.perf_counter()
    found = attempt(f"{source}\n", seconds=1.5)
    assert time.perf_counter() - started < 20
    assert not found.passed and said in found.reason
    assert "\n" not in found.reason and len(found.reason) <= 200


def test_a_program_passes_when_it_came_to_its_end():
    assert attempt("assert 1 + 1 == 2") == Outcome(True, "", pytest.approx(0, abs=5))
    uses_its_module = "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int'\nA(1)"
    assert attempt(uses_its_module).passed
    assert attempt("with open('a', 'w') as f: f.write('x')\nassert open('a').read() == 'x'").passed


def test_a_failure_says_what_and_where():
    said = attempt("x = 3\ndef f():\n    assert x == 2\nf()\n").reason
    assert said == "AssertionError, in line 3: assert x == 2"


def test_no_file_is_changed_elsewhere_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(sandbox.tempfile, "tempdir", None)
    kept = tmp_path / "kept"
    kept.write_text("as it was")
    for code in ("open({!r}, 'w')", "import os; os.remove({!r})", "import os; os.truncate({!r}, 0)",
                 "import os; os.rename({!r}, 'x')", "import os, shutil; shutil.rmtree(os.path.dirname({!r}))",
                 "import os; os.open({!r}, os.O_RDWR)", "import os; os.symlink({!r}, 'x')"):  # fmt: skip
        found = attempt(code.format(str(kept)))
        assert not found.passed and "not allowed here" in found.reason, code
    assert kept.read_text() == "as it was"
    assert not list((tmp_path / "tmp").iterdir())


def test_a_program_sees_no_variable_of_ours_and_no_package(monkeypatch):
    monkeypatch.setenv("A_SECRET", "1")
    assert attempt("import os\nassert 'A_SECRET' not in os.environ").passed
    assert "ModuleNotFoundError" in attempt("import numpy").reason


def test_without_namespaces_the_rest_still_holds(monkeypatch):
    monkeypatch.setattr(sandbox, "namespaces", lambda: ())
    assert attempt("x = 1").passed
    for name in (
        "forks",
        "killing its parent",
        "killing everyone",
        "a connection",
        "an endless loop",
    ):
        assert not attempt(WILD[name][0], seconds=1).passed, name


def test_where_namespaces_are_to_be_had_a_process_is_alone_in_them():
    if not sandbox.namespaces():
        pytest.skip("no namespaces here")
    assert attempt("import os\nassert os.getpid() <= 2 and os.getppid() == 0").passed


def test_what_outlives_its_process_is_ended(monkeypatch, tmp_path):
    """A confined process that gets round every refusal, and starts another one that lasts."""
    source = sandbox.CONFINED.read_text().replace("    sys.addaudithook(refuse)\n", "")
    (tmp_path / "open.py").write_text(source.replace("(resource.RLIMIT_NPROC, 0),", ""))
    monkeypatch.setattr(sandbox, "CONFINED", tmp_path / "open.py")
    monkeypatch.setattr(sandbox, "namespaces", lambda: ())
    program = f"""
import os, time
if os.fork() == 0:
    open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
    time.sleep(60)
time.sleep(0.5)
"""
    assert attempt(program).passed
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(pid)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# Solving.


def tried(passed, samples):
    outcomes = tuple(Outcome(i < passed, "", 0.0) for i in range(samples))
    return Tried("x", ("",) * samples, outcomes)


@pytest.mark.parametrize(
    ("passed", "samples", "k"), [(0, 5, 2), (1, 5, 1), (2, 5, 3), (4, 5, 2), (5, 5, 5)]
)
def test_pass_at_k_is_the_share_of_choices_of_k_with_one_that_passed(passed, samples, k):
    choices = list(itertools.combinations([i < passed for i in range(samples)], k))
    share = sum(map(any, choices)) / len(choices)
    assert math.isclose(pass_at(k, [tried(passed, samples)]), share)
    assert math.isclose(pass_at(k, [tried(passed, samples), tried(0, samples)]), share / 2)


def test_each_problem_is_tried_with_its_own_completions(tmp_path):
    problems = read_problems(write(tmp_path / "set.jsonl", HUMAN_EVAL, MBPP))
    texts = [["    return 1", "    return 2"], [problems[1].solution]]
    found = list(try_all(problems, texts, seconds=5))
    assert [(t.name, t.passed, t.completions) for t in found] == [
        ("a/1", 1, tuple(texts[0])), ("2", 1, tuple(texts[1]))
    ]  # fmt: skip


@pytest.fixture(scope="module")
def writer():
    tokenizer = Tokenizer.train(["def add(a, b):\n    return a + b\n" * 8], vocabulary=300)
    values = {"model_type": "llama", "vocab_size": tokenizer.vocabulary, "hidden_size": 32,
              "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
              "num_key_value_heads": 1, "max_position_embeddings": 120}  # fmt: skip
    return TextModel(models.fresh(values, 0), tokenizer)


def test_a_completion_is_what_the_model_writes_behind_the_prompt(writer, tmp_path):
    (problem,) = read_problems(write(tmp_path / "set.jsonl", HUMAN_EVAL))
    wanted = writer.complete("def one():", max_tokens=9, stop=problem.stop).text
    assert completions(writer, problem, max_tokens=9) == [wanted]
    drawn = completions(
        writer, problem, samples=3, max_tokens=9, sampling=Sampling(temperature=1.0, seed=4)
    )
    again = [
        writer.complete(
            "def one():",
            max_tokens=9,
            stop=problem.stop,
            sampling=Sampling(temperature=1.0, seed=s),
        ).text
        for s in (4, 5, 6)
    ]
    assert drawn == again and len(set(drawn)) > 1


def test_several_samples_need_a_temperature(writer):
    with pytest.raises(UsageError, match="give a temperature"):
        completions(writer, own[0], samples=2)


def test_a_prompt_without_room_is_left_unanswered_and_said(writer, tmp_path):
    long = HUMAN_EVAL | {"prompt": "# so many words\n" * 99 + "def one():\n"}
    (problem,) = read_problems(write(tmp_path / "set.jsonl", long))
    with pytest.warns(
        LcmWarning, match=r"a/1: its prompt of \d+ tokens fills the model's context of 120"
    ):
        assert completions(writer, problem) == [""]
