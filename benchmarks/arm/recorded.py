"""The costs in results/arm_cost.json: read, written a line each, and compared with others."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent.parent / "results" / "arm_cost.json"
MOST = 1.03  # times what is recorded
NOISE = 1.001  # of counting again: what an interpreter does around a call is not always the same


def read() -> dict[str, Any]:
    """What is recorded."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def write(document: Mapping[str, Any]) -> None:
    """Record it, sorted, each loop on a core and each call on a line of its own."""
    sections = []
    for section, entries in document.items():
        lines = [
            f"  {json.dumps(name)}: {_entry(entry)}" for name, entry in sorted(entries.items())
        ]
        sections.append(f" {json.dumps(section)}: {{\n" + ",\n".join(lines) + "\n }")
    FILE.write_text("{\n" + ",\n".join(sections) + "\n}\n", encoding="utf-8")


def _entry(entry: Any) -> str:
    if isinstance(entry, dict) and any(isinstance(value, dict) for value in entry.values()):
        lines = [
            f"   {json.dumps(name)}: {json.dumps(value)}" for name, value in sorted(entry.items())
        ]
        return "{\n" + ",\n".join(lines) + "\n  }"
    return json.dumps(entry)


def costs(document: Mapping[str, Any]) -> dict[str, float]:
    """All that is compared, by what it is called in words.

    Of loops the cycles for a thousand multiply-adds: so they are the same loops when turns do more or less.
    """
    found = {}
    for loop, places in document["loops"].items():
        for place, cost in places.items():
            what = f"loop {loop} on {place}: cycles for 1,000 multiply-adds"
            found[what] = 1000 * cost["cycles"] / cost["multiply-adds"]
    for case, libraries in document["calls"].items():
        for library, count in libraries.items():
            found[f"call {case} by {library}: instructions"] = count
    return found


def report(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each cost that is too high now, and one on what else is not the same."""
    lines = raised(costs(before), costs(now))
    versions = f"recorded with {json.dumps(before['circumstances'])}, measured with {json.dumps(now['circumstances'])}"
    return [*lines, versions] if lines else []


def raised(before: Mapping[str, float], now: Mapping[str, float]) -> list[str]:
    """A line for each cost that has grown beyond what is allowed, or is in one of both alone."""
    lines = [f"{name}: {now[name]:,.1f}, recorded is {before[name]:,.1f}" for name in before
             if name in now and now[name] > MOST * before[name]]  # fmt: skip
    lines += [f"{name}: not measured any more" for name in before if name not in now]
    return lines + [f"{name}: not recorded yet" for name in now if name not in before]


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """A line for each call that was not the same number of instructions again, but for what is noise."""
    pairs = [
        (f"{case} by {library}", count, second[case][library])
        for case, libraries in first.items() for library, count in libraries.items()
    ]  # fmt: skip
    return [f"{name}: {a:,} and {b:,}" for name, a, b in pairs if max(a, b) > NOISE * min(a, b)]
