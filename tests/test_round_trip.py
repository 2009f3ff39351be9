"""From a folder of code to a model that completes some: every step by command."""

import json
import shutil

import pytest

from lcm.generate.loading import installed


def test_a_run_trains_resumes_completes_and_is_measured(lcm, trained, source, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    done = lcm("train", "--resume", run, "--steps", 14, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "going on after step 10" in done.stdout
    assert (run / "checkpoints" / "step-0000014" / "model.safetensors").is_file()

    done = lcm("complete", "def f(", "-n", 8, "--model", run, "--json", cwd=tmp_path)
    record = json.loads(done.stdout)
    assert len(record["tokens"]) == 8 and record["finish"] == "length"
    assert "linear" in record["backends"]

    record = json.loads(lcm("eval", source, "--model", run, "--json", cwd=tmp_path).stdout)
    assert record["tokens"] > 1000 and 1 < record["perplexity"] < 400


def test_the_same_command_gives_the_same_text(lcm, trained, tmp_path):
    arguments = ("generate", "import", "-n", 12, "-t", 1, "--seed", 3, "--model", trained)
    first, second = (lcm(*arguments, cwd=tmp_path).stdout for _ in range(2))
    assert first == second and first.startswith("import")


def test_a_prompt_can_come_through_a_pipe(environment, trained, tmp_path):
    import subprocess

    command = ["lcm", "complete", "-", "-n", "4", "--model", str(trained)]
    done = subprocess.run(
        command, input="class ", env=environment, text=True, capture_output=True, check=True
    )
    assert done.stdout.startswith("class ")


def test_a_model_is_found_by_its_name(lcm, trained, tmp_path):
    shutil.copytree(trained / "best", tmp_path / "models" / "mine")
    done = lcm(
        "complete", "x", "-n", 2, "--model", "mine", "--json", cwd=tmp_path, LCM_MODELS_DIR="models"
    )
    assert json.loads(done.stdout)["model"] == "models/mine"


def test_a_model_can_be_trained_further(lcm, trained, source, tmp_path):
    arguments = ("--from", trained, "--steps", 3, "--context", 32, "--batch", 2, "--lr", 1e-4)
    done = lcm("train", source, "--out", "tuned", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "finished: all 3 steps" in done.stdout


def test_every_backend_and_none_say_the_same(lcm, trained, tmp_path):
    def completed(*more):
        arguments = ("complete", "def f(", "-n", 8, "--model", trained, "--json", *more)
        return json.loads(lcm(*arguments, cwd=tmp_path).stdout)

    reference = completed("--backend", "reference")
    assert {b for ran in reference["backends"].values() for b in ran} == {"reference"}
    for one in json.loads(lcm("backends", "--json", cwd=tmp_path).stdout):
        if one["state"] == "ready":
            assert completed("--backend", one["name"])["tokens"] == reference["tokens"], one["name"]


@pytest.mark.skipif(not installed(), reason="no model is installed as a package")
def test_the_installed_model_completes_without_being_named(lcm, tmp_path):
    done = lcm("complete", "def read_json(path):", "-n", 24, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"].strip()
