"""lcm doctor: run a real kernel of every ready backend, and say what could be better."""

from typing import Any

import click

from lcm.cli import options

PRODUCT = {"rows": 512, "inputs": 512, "outputs": 512}


@click.command()
@options.as_json
def command(as_json: bool) -> None:
    """Check this installation: kernels against the reference and the clock, threads, libraries.

    \b
    lcm doctor
    lcm doctor --json > report.json

    Ends with exit code 1 if something is wrong.
    """
    report: dict[str, Any] = {
        "host": _host(),
        "backends": _backends(),
        "libraries": _libraries(),
        "advice": _advice(),
    }
    wrong = [c for b in report["backends"] for c in b["checks"] if not c["ok"]]
    if as_json:
        options.print_json(report)
    else:
        _print(report)
    if wrong:
        click.get_current_context().exit(1)


def _host() -> dict[str, Any]:
    from lcm import host

    here = host.current()
    return {
        "machine": here.describe(),
        "label": here.label.value,
        "threads": here.threads(),
        "cores this process may use": here.cores.value,
        "quota in cores": here.quota.value,
    }


def _backends() -> list[dict[str, Any]]:
    from lcm.backend import discovery

    rows = []
    for verdict in discovery.verdicts():
        row: dict[str, Any] = {"name": verdict.name, "state": verdict.state, "reason": verdict.reason,
                               "fix": verdict.fix, "checks": [], "notes": {}}  # fmt: skip
        if verdict.state == "ready":
            backend = discovery.open_backend(verdict.name)
            row["notes"] = dict(backend.notes)
            row["checks"] = [*_kernels(backend), *_own_checks(verdict.name)]
            row["gflops"] = _speed(backend)
        rows.append(row)
    return rows


def _kernels(backend: Any) -> list[dict[str, Any]]:
    """Every kernel against the op's body, on cases that it has not seen."""
    from lcm.backend import selftest
    from lcm.errors import LcmError

    checks = []
    for symbol, kernel in sorted(backend.kernels.items()):
        try:
            error = selftest.worst(symbol, kernel, cases=8, largest=70)
            ok, found = error <= selftest.TOLERANCE, f"off by {error:.1e} of the largest number"
        except LcmError as problem:
            ok, found = False, str(problem)
        checks.append({"name": symbol, "ok": bool(ok), "found": found})
    return checks


def _own_checks(name: str) -> list[dict[str, Any]]:
    from lcm.backend import discovery

    checks = []
    for title, check in discovery.doctor_checks(name).items():
        try:
            ok, found = True, check()
        except Exception as problem:  # a plugin's check says what is wrong by raising it
            ok, found = False, str(problem)
        checks.append({"name": title, "ok": ok, "found": found})
    return checks


def _speed(backend: Any) -> float | None:
    """GFLOP/s of a product of 512 x 512 matrices; None where the backend has no kernel for it."""
    from lcm.backend import measure

    if backend.kernels and "linear" not in backend.kernels:
        return None
    seconds = measure.seconds("linear", PRODUCT, backend if backend.kernels else None)
    return round(2 * PRODUCT["rows"] * PRODUCT["inputs"] * PRODUCT["outputs"] / seconds / 1e9, 1)


def _libraries() -> list[dict[str, Any]]:
    """The BLAS and OpenMP libraries in this process: several may fight over the cores."""
    from threadpoolctl import ThreadpoolController

    keys = ("user_api", "internal_api", "num_threads", "version", "filepath")
    return [{k: i.get(k) for k in keys} for i in ThreadpoolController().info()]


def _advice() -> list[str]:
    from lcm.backend import discovery, dispatch
    from lcm.generate.loading import DEFAULT, installed

    offered = discovery.not_installed()
    offered.pop(DEFAULT, None)  # an extra too, but no backend
    advice = [f"this machine could use {n}: pip install '{what}'" for n, what in offered.items()]
    openmp = {i["filepath"] for i in _libraries() if i["user_api"] == "openmp"}
    if len(openmp) > 1:
        advice.append(
            f"two OpenMP libraries are loaded, which slows both: {', '.join(sorted(openmp))}"
        )
    if len(discovery.ready()) > 1 and not dispatch.table().choices:
        advice.append("nothing has been measured here yet: lcm tune")
    if not installed():
        advice.append("no model is installed: pip install 'lcm[tinycode]', or lcm train")
    return advice


def _print(report: dict[str, Any]) -> None:
    for name, value in report["host"].items():
        click.echo(f"{name:28} {'none' if value is None else value}")
    for row in report["backends"]:
        speed = f"{row['gflops']} GFLOP/s on 512 x 512 x 512" if row.get("gflops") else ""
        click.echo(
            f"\n{row['name']}: {row['state']}; {row['reason']}{'; ' + row['fix'] if row['fix'] else ''}"
        )
        for line in [speed, *(f"{n}: {v}" for n, v in row["notes"].items())]:
            if line:
                click.echo(f"  {line}")
        for check in row["checks"]:
            click.echo(
                f"  {'right' if check['ok'] else 'WRONG'}  {check['name']:20} {check['found']}"
            )
    click.echo("\nlibraries with threads of their own")
    for library in report["libraries"]:
        click.echo(
            f"  {library['internal_api']} {library['version'] or ''}, {library['num_threads']} threads: "
            f"{library['filepath']}"
        )
    if report["advice"]:
        click.echo("\nadvice")
    for line in report["advice"]:
        click.echo(f"  {line}")
