"""lcm eval as a user runs it: paths without a command, comparisons, and problems only when that is said."""

import json

import pytest

from lcm.evaluation.problems import OWN


def test_paths_alone_are_measured_as_by_name(lcm, trained, source, tmp_path):
    short, long = (
        json.loads(lcm(*command, source, "--model", trained, "--json", cwd=tmp_path).stdout)
        for command in (["eval"], ["eval", "perplexity"])
    )
    assert short == long and short["activations"] == "f32"


def test_a_model_is_compared_with_its_8_bit_form(lcm, trained, source, tmp_path):
    lcm("quantize", trained, "small.gguf", "--format", "q8_0", cwd=tmp_path)
    arguments = ("eval", "kl", source, "--model", "small.gguf", "--against", trained, "--json")
    found = json.loads(lcm(*arguments, cwd=tmp_path).stdout)
    assert 0 < found["kl_mean"] < 1e-3 and found["same_likeliest"] > 0.95
    assert found["perplexity_ratio"] == pytest.approx(1, abs=0.01)
    table = lcm(*arguments[:-1], cwd=tmp_path).stdout
    assert "perplexity ratio" in table and " ± " in table


def test_a_model_is_not_compared_with_itself(refused, trained, source, tmp_path):
    line = refused(2, "eval", "kl", source, "--model", trained, cwd=tmp_path)
    assert "would be compared with itself" in line and "--against" in line


def test_code_is_run_only_where_that_was_said(refused, tmp_path):
    assert "--yes-run-code" in refused(2, "eval", "problems", cwd=tmp_path)


def test_solutions_made_elsewhere_are_tried(lcm, tmp_path):
    records = [json.loads(line) for line in OWN.read_text().splitlines()]
    solutions = [
        {"task_id": r["task_id"], "completion": r["canonical_solution"] if i else "    pass"}
        for i, r in enumerate(records)
    ]
    (tmp_path / "made.jsonl").write_text("\n".join(map(json.dumps, solutions)))
    arguments = ("eval", "problems", "--solutions", "made.jsonl", "--yes-run-code")
    done = lcm(*arguments, cwd=tmp_path)
    assert done.returncode == 0 and "code that a model wrote is run here" in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == ["lcm/shelf_width", "failed:"] and lines[1].endswith("passed")
    assert lines[-1].split()[:2] == ["pass@1", "0.9500"]
    found = json.loads(lcm(*arguments, "--json", cwd=tmp_path).stdout)
    assert found["pass@1"] == 0.95 and len(found["problems"]) == len(records)


def test_a_weak_model_solves_nothing_and_that_is_no_error(lcm, trained, tmp_path):
    record = json.loads(OWN.read_text().splitlines()[0]) | {"prompt": "def f(x):\n"}
    (tmp_path / "one.jsonl").write_text(json.dumps(record))
    done = lcm(
        "eval", "problems", "one.jsonl", "--model", trained, "--yes-run-code", "-n", 8, cwd=tmp_path
    )
    assert done.returncode == 0 and "pass@1" in done.stdout, done.stderr
