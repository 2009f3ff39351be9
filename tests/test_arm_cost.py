"""What is recorded of costs on 64-bit Arm: what it claims, and that a check against it can fail."""

import tomllib
from pathlib import Path

import pytest
from arm import loops, recorded, tables

ROOT = Path(__file__).parent.parent
SVE = {"neoverse-v1": "sve256 i8mm", "neoverse-v2": "sve128 i8mm"}  # the processors with both
SLOWER = 1.1  # less is no reason to leave the prior's choice: docs/how-dispatch-decides.md


@pytest.fixture
def document():
    return recorded.read()


def cycles(document, loop, place):
    """For a multiply-add."""
    return 1 / tables.a_cycle(document["loops"][loop][place])


def test_what_costs_as_much_as_recorded_passes(document):
    assert recorded.report(document, recorded.read()) == []


@pytest.mark.parametrize("times", [1.02, 1.04])
def test_what_costs_more_than_3_percent_more_fails(document, times):
    costs = recorded.costs(document)
    assert len(costs) > 200
    for name, cost in costs.items():
        lines = recorded.raised(costs, costs | {name: cost * times})
        assert [line.startswith(name) for line in lines] == [True] * (times > recorded.MOST)


def test_a_loop_and_a_call_that_cost_more_are_told_with_the_versions(document):
    slower = recorded.read()
    slower["loops"]["tile"]["neoverse-n1, neon dotprod"]["cycles"] *= 1.05
    slower["calls"]["add"]["neon dotprod"] *= 2
    loop, call, versions = recorded.report(document, slower)
    assert loop.startswith("loop tile on neoverse-n1, neon dotprod: cycles")
    assert call.startswith("call add by neon dotprod: instructions")
    assert document["circumstances"]["zig"] in versions


def test_a_loop_that_does_more_in_a_turn_costs_the_same(document):
    unrolled = recorded.read()
    for cost in unrolled["loops"]["tile"].values():
        cost["cycles"] *= 2
        cost["multiply-adds"] *= 2
    assert recorded.report(document, unrolled) == []


def test_what_is_in_one_of_both_alone_fails():
    assert recorded.raised({"a": 1, "b": 1}, {"a": 1}) == ["b: not measured any more"]
    assert recorded.raised({"a": 1}, {"a": 1, "b": 1}) == ["b: not recorded yet"]


def test_counting_again_may_differ_by_a_thousandth():
    once, again = {"add": {"neon": 10_000}}, {"add": {"neon": 10_009}}
    assert recorded.differing(once, again) == []
    assert recorded.differing(once, {"add": {"neon": 10_011}}) == ["add by neon: 10,000 and 10,011"]


def test_what_is_written_is_what_is_read(document, tmp_path, monkeypatch):
    kept = recorded.FILE.read_text(encoding="utf-8")
    monkeypatch.setattr(recorded, "FILE", tmp_path / "costs.json")
    recorded.write(document)
    assert recorded.FILE.read_text(encoding="utf-8") == kept


def test_the_readme_has_the_tables_that_are_recorded(document):
    readme = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    found = tables.all_of(document).strip().split("\n\n")
    assert [f"\n\n{table}\n\n" in readme for table in found] == [True, True]


DISASSEMBLED = """
0000000000001f00 <loop_tile>:
    1f00: ldr q0, [x1]
    1f04: fmla v1.4s, v2.4s, v0.s[0]
    1f08: fmla z1.s, p0/m, z2.s, z3.s
    1f0c: b.ne 0x1f04 <loop_tile+0x4>
    1f10: fmla v1.4s, v2.4s, v0.s[0]   // more of them, but with a loop inside
    1f14: fmla v1.4s, v2.4s, v0.s[1]
    1f18: subs x8, x8, #0x1
    1f1c: cbnz x8, 0x1f00 <loop_tile>
    1f20: ret
"""


def test_the_hot_loop_is_the_innermost_that_multiplies_most(monkeypatch):
    body = [one for line in DISASSEMBLED.splitlines() if (one := loops.parsed(line))]
    monkeypatch.setattr(loops, "instructions", lambda library, function: body)
    loop = loops.hot_loop(Path("any.so"), "loop_tile", "f32")
    assert [one.address for one in loop] == [0x1F04, 0x1F08, 0x1F0C]
    assert [one.multiplies("f32", 256) for one in loop] == [4, 8, 0]
    with pytest.raises(LookupError, match="no loop of loop_tile multiplies int8"):
        loops.hot_loop(Path("any.so"), "loop_tile", "int8")


def test_a_function_ends_where_its_size_says(monkeypatch):
    said = {
        loops.NM: "0000000000001f04 000000000000000c T loop_tile\n",
        loops.OBJDUMP: DISASSEMBLED,
    }
    commands = []
    monkeypatch.setattr(
        loops, "output", lambda *command: commands.append(command) or said[command[0]]
    )
    loops.instructions(Path("any.so"), "loop_tile")
    assert {f"--start-address={0x1F04}", f"--stop-address={0x1F10}"} < set(commands[1])
    with pytest.raises(LookupError, match=r"any\.so exports no loop_mix"):
        loops.instructions(Path("any.so"), "loop_mix")


@pytest.mark.parametrize(
    "place", ["neoverse-n1, neon dotprod", *(f"{c}, {s}" for c, s in SVE.items())]
)
def test_the_tile_takes_85_percent_of_the_multiply_adds_that_a_core_can_issue(document, place):
    assert document["loops"]["tile"][place]["share"] > 0.85


AIMED_AT, REACHED = 0.6, {"attention": 0.61}


@pytest.mark.parametrize(
    "name", ["linear", "linear_grad", "matmul", "matmul_grad", "attention", "attention_grad"]
)
def test_sve_with_256_bits_needs_0_6_times_the_instructions_of_neon(document, name):
    count = document["calls"][name]
    assert count["sve256 i8mm"] <= REACHED.get(name, AIMED_AT) * count["neon i8mm"]


@pytest.mark.parametrize("core", SVE)
def test_the_prior_takes_sve_before_neon_and_no_loop_is_much_slower_by_it(document, core):
    features = {}
    for plugin in ("neon", "sve"):
        manifest = ROOT / f"plugins/lcm-{plugin}/src/lcm_{plugin}/lcm_backend.toml"
        features[plugin] = tomllib.loads(manifest.read_text(encoding="utf-8"))["features"]
    assert len(features["sve"]) > len(features["neon"])  # which is how by_features orders them
    for loop in document["loops"]:
        sve, neon = (
            cycles(document, loop, f"{core}, {library}") for library in (SVE[core], "neon i8mm")
        )
        assert sve <= SLOWER * neon, loop
