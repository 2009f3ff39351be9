"""The pytest plugin: the options of the conformance kit, and its table of what a backend supports.

It is found by itself wherever lcm and pytest are installed, whatever version of pytest that is, and does
nothing unless it is asked.
"""

from __future__ import annotations  # older versions of pytest do not have all these types

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("lcm.testing.conformance")

LEVELS = ("smoke", "core", "full")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lcm", "conformance of lcm's backends")
    group.addoption(
        "--lcm-backend", metavar="NAME", default="",
        help="Test this backend of lcm: its name, or the path of its library.",
    )  # fmt: skip
    group.addoption(
        "--lcm-level", choices=LEVELS, default="core",
        help="How much is tried: seconds, a minute, minutes (default: core).",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "lcm_backend(name): the backend that these tests are about.")
    config.pluginmanager.register(Support(), "lcm-support")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """`pytest --lcm-backend NAME`, with nothing else to collect, collects the conformance tests."""
    given = early_config.known_args_namespace
    if given.lcm_backend and not given.file_or_dir:
        args.append(str(Path(__file__).with_name("conformance.py")))


class Support:
    """What the reports say of every kernel, and the table of it at the end."""

    def __init__(self) -> None:
        self.failed: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.refused: dict[tuple[str, str], list[Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        said: dict[str, Any] = dict(report.user_properties)
        if "lcm_kernel" not in said:
            return
        backend, symbol = said["lcm_kernel"]
        failed = self.failed[backend][symbol]
        if report.failed:
            failed.add(report.nodeid)
        if "lcm_refused" in said:
            self.refused[backend, symbol] = said["lcm_refused"]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for backend, kernels in self.failed.items():
            from lcm.testing.support import table

            refused = {s: r for (b, s), r in self.refused.items() if b == backend}
            terminalreporter.section(f"what {backend} supports")
            for line in table(kernels, refused):
                terminalreporter.write_line(line)
