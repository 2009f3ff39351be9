"""Damaged files: refused with one line that says which, and code 4."""

import shutil

import pytest


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def garble(path):
    path.write_bytes(b"\xff" * 64)


def empty(path):
    path.write_bytes(b"")


DAMAGE = [cut, garble, empty]
MODEL_FILES = ["model.safetensors", "config.json", "tokenizer.json"]
CHECKPOINT_FILES = [*MODEL_FILES[::2], "optimizer.safetensors", "state.json"]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", MODEL_FILES)
def test_a_damaged_model_is_refused(refused, trained, tmp_path, file, damage):
    model = shutil.copytree(trained / "best", tmp_path / "model")
    damage(model / file)
    assert file in refused(4, "complete", "x", "--model", model, cwd=tmp_path)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", CHECKPOINT_FILES)
def test_a_damaged_checkpoint_is_refused(refused, trained, tmp_path, file, damage):
    run = shutil.copytree(trained, tmp_path / "run")
    damage(run / "checkpoints" / "step-0000010" / file)
    assert file in refused(4, "train", "--resume", run, "--steps", 12, cwd=tmp_path)


def test_a_damaged_plan_is_refused(refused, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    garble(run / "train.json")
    assert "train.json" in refused(4, "train", "--resume", run, "--steps", 12, cwd=tmp_path)


@pytest.mark.parametrize("file", MODEL_FILES)
def test_a_missing_file_is_refused(refused, trained, tmp_path, file):
    model = shutil.copytree(trained / "best", tmp_path / "model")
    (model / file).unlink()
    assert file in refused(4, "complete", "x", "--model", model, cwd=tmp_path)


def test_changed_data_is_not_trained_on_by_accident(lcm, trained, source, small, tmp_path):
    data = shutil.copytree(source, tmp_path / "data")
    lcm("train", "data", "--out", "run", "--steps", 3, *small, cwd=tmp_path)
    (data / "more.py").write_text("x = 1\n" * 50)
    done = lcm("train", "--resume", "run", "--steps", 5, cwd=tmp_path)
    assert done.returncode == 5 and "other data" in done.stderr
