"""Training that is cut short: what was saved is whole, and going on gives the same model, bit by bit."""

import resource
import shutil
import signal

import pytest

STEPS = 60


def files_of(run, step):
    folder = run / "checkpoints" / f"step-{step:07}"
    return {p.name: p.read_bytes() for p in folder.glob("*.safetensors")}


@pytest.fixture(scope="module")
def begin(start, source, small):
    """Start a run that saves every fifth step."""

    def begin(folder):
        plan = ("--out", "run", "--steps", STEPS, "--save-every", 5, "--evaluate-every", 20)
        return start("train", source, *plan, *small, cwd=folder, PYTHONUNBUFFERED="1")

    return begin


@pytest.fixture(scope="module")
def uninterrupted(begin, tmp_path_factory):
    """The last checkpoint of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    process = begin(folder)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return files_of(folder / "run", STEPS)


def stop_after(process, text, number):
    """Send the signal when the process has printed the text; the rest of its output."""
    for line in process.stdout:
        if text in line:
            break
    process.send_signal(number)
    return process.communicate(timeout=300)


def go_on(lcm, folder):
    done = lcm("train", "--resume", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return files_of(folder / "run", STEPS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_and_goes_on_bit_by_bit(
    lcm, begin, uninterrupted, tmp_path, number
):
    process = begin(tmp_path)
    output, errors = stop_after(process, "step     20", number)
    assert process.returncode == 130
    assert errors == "lcm: interrupted; to go on: lcm train --resume run\n"
    assert "saved" in output and "finished" not in output
    assert go_on(lcm, tmp_path) == uninterrupted


def test_a_killed_run_goes_on_bit_by_bit(lcm, begin, uninterrupted, tmp_path):
    process = begin(tmp_path)
    stop_after(process, "step     10  saved", signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert go_on(lcm, tmp_path) == uninterrupted


def test_a_full_disk_leaves_the_old_checkpoint_whole(refused, lcm, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    before = files_of(run, 10)
    limit = len(before["model.safetensors"]) // 2

    def fill_up():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    line = refused(4, "train", "--resume", run, "--steps", 12, cwd=tmp_path, preexec_fn=fill_up)
    assert "no space left" in line
    assert files_of(run, 10) == before and not files_of(run, 12)
    assert lcm("train", "--resume", run, "--steps", 12, cwd=tmp_path).returncode == 0
