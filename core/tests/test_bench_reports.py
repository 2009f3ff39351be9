"""What lcm bench tells: files that come back, tables, charts, and comparisons that can be trusted."""

import csv
import io
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from lcm.bench import charts, compare, pictures, report
from lcm.bench.results import Results, Row
from lcm.cli import main
from lcm.cli.bench import command
from lcm.errors import FileError, UsageError

MACHINE = {
    "date": "2026-01-02T03:04:05+00:00", "command": "lcm bench", "system": "Linux (x86_64)",
    "processor": "abacus", "cores": 4, "threads": 2, "load": 0.1, "fingerprint": "0",
    "versions": {"lcm": "1"},
}  # fmt: skip


def rung(n, name, rate, *, format="f32"):
    case = {"format": format, "n": n, "rung": name, "by": "kit", "threads": 1}
    figures = {"GFLOP/s": rate, "speed-up": None, "of peak": rate / 100}
    return Row(case, (2e-9 * n**3 / rate,) * 5, figures)


LADDER = Results(
    "ladder", MACHINE,
    (rung(64, "naive", 1.0), rung(64, "SIMD", 50.0), rung(512, "naive", 0.5), rung(512, "SIMD", 90.0),
     Row({"format": "f32", "n": 512, "rung": "slow|est", "by": "kit", "threads": 1}, note="skipped: 9 s")),
    ("naive: three loops",),
)  # fmt: skip


def ops_results(*rates):
    rows = tuple(
        Row({"kernel": "linear", "shape": f"{i}", "backend": "kit"}, (1e-3,),
            {"GFLOP/s": rate, "GB/s": rate / 2, "FLOP/byte": 2.0 + i, "of limit": rate / 100})
        for i, rate in enumerate(rates)
    )  # fmt: skip
    limits = {"fma_f32": 100.0, "fma_f64": 50.0, "read": 10.0}
    return Results("ops", MACHINE | {"limits": limits}, rows)


# Files.


def test_results_come_back_as_they_were(tmp_path):
    LADDER.save(tmp_path / "a.jsonl")
    assert Results.load(tmp_path / "a.jsonl") == LADDER


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: "", "line 1 is not JSON"),
        (lambda text: text[30:], "line 1 is not JSON"),
        (lambda text: '{"loss": 1}\n' + text, "was not made by lcm bench"),
        (lambda text: text[: len(text) - 9], "line 6 is not JSON"),
        (lambda text: text + '{"case": 1}\n', "line 7 is not a row"),
        (lambda text: text.replace('"seconds": [', '"seconds": ["x", '), "line 2 is not a row"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path, damage, said):
    path = tmp_path / "a.jsonl"
    LADDER.save(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(FileError, match=said):
        Results.load(path)


# Tables.


def test_csv_has_every_number_in_full():
    rows = list(csv.DictReader(io.StringIO(report.comma_separated(LADDER))))
    assert len(rows) == 5
    for text, row in zip(rows, LADDER.rows, strict=True):
        assert int(text["runs"]) == len(row.seconds) and text["rung"] == row.case["rung"]
        if row.seconds:
            assert float(text["median s"]) == row.median
            assert float(text["GFLOP/s"]) == row.figures["GFLOP/s"]
    assert rows[4]["note"] == "skipped: 9 s" and rows[4]["median s"] == ""


def test_a_table_aligns_its_columns_and_says_machine_and_remarks():
    lines = report.table(LADDER).splitlines()
    assert (
        "abacus" in lines[0] and "load before: 0.1" in lines[0] and lines[-1] == LADDER.remarks[0]
    )
    head, first, simd = lines[3:6]
    assert first.index("naive") == simd.index("SIMD") == head.index("rung")
    assert first.endswith("1.0 %") and simd.endswith("50 %")


def test_markdown_has_a_cell_for_every_column():
    lines = [x for x in report.markdown(LADDER).splitlines() if x.startswith("|")]
    assert len(lines) == 7
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2.0, "2.00 s"),
        (0.0123, "12.3 ms"),
        (4.5e-6, "4.50 µs"),
        (7e-9, "7.00 ns"),
        (1234.0, "1,234 s"),
    ],
)
def test_durations_have_three_digits_and_a_unit_that_suits(seconds, text):
    assert report.duration(seconds) == text


# Charts.


def test_a_curve_climbs_with_its_numbers():
    drawn = charts.curves({"up": [(1, 1), (10, 10), (100, 100)]}).splitlines()
    places = {
        line.index("a"): i for i, line in enumerate(drawn[: charts.HEIGHT + 1]) if "a" in line
    }
    left, middle, right = sorted(places)
    assert (
        places[left] == charts.HEIGHT and places[middle] == charts.HEIGHT / 2 and places[right] == 0
    )
    assert middle - left == right - middle == charts.WIDTH / 2


def test_a_bar_is_as_long_as_its_share():
    drawn = charts.bars({"half": 0.5, "whole": 1.0, "none": 0.0}, str)
    counts = [line.count("█") for line in drawn.splitlines()]
    assert counts == [20, 40, 0]


def test_every_benchmark_can_be_drawn():
    assert "a naive (kit)" in charts.draw(LADDER) and "b SIMD (kit)" in charts.draw(LADDER)
    assert "50 %" in charts.draw(ops_results(50.0, 20.0))
    other = Results("startup", MACHINE, (Row({"process": "python"}, (0.02, 0.03)),))
    assert "python" in charts.draw(other) and "25.0 ms" in charts.draw(other)
    assert "nothing" in charts.draw(Results("ops", MACHINE, ()))


def test_pictures_are_png(tmp_path):
    pytest.importorskip("matplotlib")
    other = Results("startup", MACHINE, (Row({"process": "python"}, (0.02, 0.03)),))
    for number, results in enumerate((LADDER, ops_results(50.0), ops_results(), other)):
        pictures.draw(results, tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_a_picture_is_refused_before_anything_is_measured(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as end:
        main(["bench", "ladder", "--png", "x.png"])
    assert end.value.code == 2 and "pip install 'lcm[plot]'" in capsys.readouterr().err


# Comparing.


def timed(*seconds, bench="train", name="x", machine=MACHINE):
    return Results(bench, machine, (Row({"model": name}, tuple(seconds)),))


def times(median, count=50, spread=0.02, seed=0):
    return tuple(median * np.random.default_rng(seed).lognormal(0, spread, count))


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.0, "same"), (1.2, "slower"), (0.8, "faster"), (1.05, "unsure")]
)
def test_a_change_is_told_from_noise(factor, verdict):
    a, b = timed(*times(1.0)), timed(*times(factor, seed=1))
    (found,) = compare.compare(a, b, threshold=0.05)
    assert found.verdict == verdict
    assert found.low <= found.ratio <= found.high and found.ratio == pytest.approx(
        1 / factor, rel=0.02
    )


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    held = 0
    for seed in range(200):
        low, high = compare.interval(
            times(1.0, 40, 0.1, 2 * seed), times(1.0, 40, 0.1, 2 * seed + 1)
        )
        held += low <= 1 <= high
    assert 180 <= held <= 198


def test_an_interval_is_of_speeds():
    low, high = compare.interval([2.0] * 9, [1.0] * 9)
    assert low == high == 2.0


def test_few_repetitions_decide_nothing():
    (found,) = compare.compare(timed(1.0, 1.0), timed(9.0, 9.0))
    assert found.verdict == "measured 2 times: too few"


def test_files_that_do_not_fit_are_refused():
    with pytest.raises(
        UsageError, match="one file is of lcm bench train, the other of lcm bench ops"
    ):
        compare.compare(timed(1.0), timed(1.0, bench="ops"))
    with pytest.raises(UsageError, match="no measured case in common"):
        compare.compare(timed(1.0), timed(1.0, name="y"))
    with pytest.raises(UsageError, match="no measured case in common"):
        compare.compare(timed(1.0), timed())


def test_other_differences_are_said():
    other = timed(1.0, name="y", machine=MACHINE | {"threads": 8})
    said = compare.differences(timed(1.0), other)
    assert said == [
        "threads: 2 before, 8 now",
        "1 cases were measured only before",
        "1 cases were measured only now",
    ]


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (0.5, 0), (2.0, 1)])
def test_the_exit_code_is_1_for_a_regression(tmp_path, factor, code):
    timed(*times(1.0)).save(tmp_path / "a")
    timed(*times(factor, seed=1)).save(tmp_path / "b")
    done = CliRunner().invoke(command, ["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert done.exit_code == code
    assert ("1 of 1 cases are slower by more than 5%" in done.output) == bool(code)
