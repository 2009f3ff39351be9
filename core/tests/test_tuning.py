"""The tuning table: what it keeps of measurements, and that it neither flaps nor forgets."""

import os
import subprocess
import sys

import numpy as np
import pytest

from lcm.backend.contract import Backend
from lcm.backend.tuning import Measured, Table, identity
from lcm.errors import FileError, LcmWarning

SIZES = {"rows": 4, "inputs": 8, "outputs": 8}


def noisy(rng, **seconds):
    return {name: s * (1 + rng.uniform(-0.04, 0.04)) for name, s in seconds.items()}


def tuned(rng, times, **seconds):
    """The choices after each of so many noisy measurements."""
    found = Measured.first(noisy(rng, **seconds))
    choices = [found.choice]
    for _ in range(times):
        found = found.again(noisy(rng, **seconds))
        choices.append(found.choice)
    return choices


def test_two_that_are_equal_never_take_turns():
    for seed in range(100):
        choices = tuned(np.random.default_rng(seed), 60, a=1.0, b=1.0)
        assert len(set(choices)) == 1, seed


def test_the_choice_between_two_that_differ_changes_at_most_once_and_to_the_better_one():
    for seed in range(100):
        choices = tuned(np.random.default_rng(seed), 60, a=1.2, b=1.0)
        assert "".join(choices).lstrip("a") == "b" * choices.count("b"), seed
        assert choices[-1] == "b"


def test_the_prior_is_not_left_for_one_that_is_a_little_faster():
    """Each backend's threads wait awake beside the other's, which costs more than it gains."""
    for seed in range(100):
        assert set(tuned(np.random.default_rng(seed), 60, a=1.015, b=1.0)) == {"a"}, seed


def test_what_was_measured_with_other_candidates_does_not_count():
    old = Measured.first({"a": 1.0, "b": 2.0})
    assert old.again({"a": 1.0, "b": 2.0, "c": 0.8}).choice == "c"
    assert old.again({"a": None, "b": 2.0}).choice == "b"


def test_a_time_that_halves_shows_that_the_one_before_was_disturbed():
    found = Measured.first({"a": 1.0, "b": 100.0}).again({"a": 1.1, "b": 0.9})
    assert (found.choice, found.seconds, found.times) == ("b", {"a": 1.1, "b": 0.9}, 1)


def test_a_backend_that_is_away_leaves_the_choice_to_the_others():
    found = Measured.first({"a": 1.0, "b": 3.0, "c": 2.0, "d": None})
    assert found.best_of(["b", "c", "d"]) == "c"


def test_a_build_is_known_by_its_files_path_size_and_time(tmp_path):
    library = tmp_path / "x.so"
    library.write_bytes(b"1")
    names = {identity(Backend("x", {}, library=str(library)))}
    os.utime(library, ns=(1, 1))
    names.add(identity(Backend("x", {}, library=str(library))))
    library.write_bytes(b"22")
    os.utime(library, ns=(1, 1))
    names.add(identity(Backend("x", {}, library=str(library))))
    assert len(names) == 3


def test_a_number_of_threads_has_a_table_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("LCM_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("LCM_THREADS", "1")
    one = Table.of_this_host().path
    monkeypatch.setenv("LCM_THREADS", "2")
    assert Table.of_this_host().path != one


ADD_ROWS = """
import sys
from pathlib import Path
from lcm.backend.tuning import Table
for row in range(int(sys.argv[2]), int(sys.argv[3])):
    table = Table.load(Path(sys.argv[1]))
    table.add("linear", {"rows": row}, {"a": 1.0})
    table.save()
"""


def test_three_that_tune_at_once_lose_nothing_of_each_other(tmp_path):
    path = tmp_path / "t.json"
    processes = [
        subprocess.Popen([sys.executable, "-c", ADD_ROWS, str(path), str(first), str(first + 20)])
        for first in (1, 21, 41)
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert {dict(shape)["rows"] for shape in Table.load(path).measured["linear"]} == {*range(1, 61)}


def test_a_table_that_was_loaded_before_another_saved_keeps_both(tmp_path):
    path = tmp_path / "t.json"
    one, two = Table.load(path), Table.load(path)
    one.add("linear", {"rows": 1}, {"a": 1.0, "b": 2.0})
    two.add("linear", {"rows": 1}, {"a": 4.0, "b": 2.0})
    two.add("linear", {"rows": 2}, {"a": 1.0})
    one.save()
    two.save()
    two.save()  # what is saved is not added again
    found = Table.load(path).measured["linear"]
    assert found[("rows", 1),].seconds == {"a": 2.0, "b": 2.0}  # the geometric means
    assert found[("rows", 1),].times == 2 and len(found) == 2


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}]",
        "[1]",
        '[{"kernel": "linear"}]',
        '[{"kernel": "l", "sizes": {"n": 1}, "seconds": {"a": -1}, "choice": "a", "times": 1}]',
        '[{"kernel": "l", "sizes": {"n": 1}, "seconds": {"a": NaN}, "choice": "a", "times": 1}]',
        '[{"kernel": "l", "sizes": {"n": 1}, "seconds": {"a": null}, "choice": "a", "times": 1}]',
        '[{"kernel": "l", "sizes": {"n": 1}, "seconds": {"a": 1}, "choice": "b", "times": 1}]',
    ],
)
def test_a_broken_table_is_said_and_begun_anew(tmp_path, text):
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.warns(LcmWarning, match="tuning table is unreadable"):
        table = Table.load(path)
    assert len(table) == 0
    table.add("linear", SIZES, {"a": 1.0})
    with pytest.warns(LcmWarning, match="tuning table is unreadable"):
        table.save()
    assert len(Table.load(path)) == 1


def test_a_table_that_cannot_be_written_says_so_and_leaves_nothing_behind(tmp_path, monkeypatch):
    table = Table(tmp_path / "t.json")
    table.add("linear", SIZES, {"a": 1.0})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match=r"t\.json: cannot be written: No space left on device"):
        table.save()
    assert [p.name for p in tmp_path.iterdir()] == ["t.lock"]
