"""lcm doctor: run every kernel of every ready backend, and say what could be better."""

from collections.abc import Sequence
from typing import Any

import click

from lcm.cli import options

BUDGET = 0.05  # seconds to time a kernel for, on all backends together
SPIN = 0.006  # seconds of processor time after a call: more disturbs whoever is next


@click.command()
@options.as_json
def command(as_json: bool) -> None:
    """Check this installation: kernels against the reference and the clock, threads, libraries.

    \b
    lcm doctor
    lcm doctor --json > report.json

    Each kernel is timed at one large shape, and compared with what the machine was just measured to do at
    best: multiply-adds, or reading memory, whichever would take longer. More than 100 % came from caches.
    Ends with exit code 1 if something is wrong.
    """
    limits = _limits()
    report: dict[str, Any] = {
        "host": _host(),
        "limits": limits,
        "backends": _backends(limits),
        "libraries": _libraries(),
    }
    report["advice"] = _advice(report["backends"])
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


def _limits() -> dict[str, float] | None:
    """The machine's best rates in 10^9 a second, by the backend with the most features that measures them."""
    from lcm.backend import dispatch, limits

    for backend in dispatch.by_features():
        if found := limits.measured(backend):
            return {"f32 operations": found.fma_f32, "f64 operations": found.fma_f64,
                    "bytes read": found.read}  # fmt: skip
    return None


def _backends(limits: dict[str, float] | None) -> list[dict[str, Any]]:
    from lcm.backend import discovery

    verdicts = discovery.verdicts()
    opened = [discovery.open_backend(v.name) for v in verdicts if v.state == "ready"]
    speeds = _speeds(opened, limits)
    rows = []
    for verdict in verdicts:
        row: dict[str, Any] = {"name": verdict.name, "state": verdict.state, "reason": verdict.reason,
                               "fix": verdict.fix, "checks": [], "notes": {}, "speeds": []}  # fmt: skip
        if verdict.state == "ready":
            backend = next(b for b in opened if b.name == verdict.name)
            row["notes"] = dict(backend.notes)
            row["checks"] = [*_kernels(backend), *_own_checks(verdict.name)]
            row["speeds"] = speeds[verdict.name]
            row["spins"] = _spins(backend)
        rows.append(row)
    return rows


def _speeds(
    backends: Sequence[Any], limits: dict[str, float] | None
) -> dict[str, list[dict[str, Any]]]:
    """By backend, how fast each of its kernels is; of the reference, products alone."""
    from lcm.backend import measure
    from lcm.errors import LcmError

    found: dict[str, list[dict[str, Any]]] = {backend.name: [] for backend in backends}
    for symbol in sorted({"linear", *(s for b in backends for s in b.kernels)}):
        able = {b.name: b for b in backends if symbol in b.kernels}
        if symbol == "linear":
            able |= {b.name: None for b in backends if not b.kernels}
        try:
            times = measure.times(symbol, measure.large(symbol), able, BUDGET)
        except LcmError:
            continue  # wrong kernels are told by the checks
        for name, seconds in times.items():
            if seconds:
                found[name].append(_speed(symbol, seconds, limits))
    return found


def _speed(symbol: str, seconds: float, limits: dict[str, float] | None) -> dict[str, Any]:
    """The rates of a call, and its share of the limit that binds it."""
    from lcm.backend import measure

    operations, moved = measure.cost(symbol, measure.large(symbol))
    rates = operations / seconds / 1e9, moved / seconds / 1e9
    speed = {"kernel": symbol, "seconds": seconds, "GFLOP/s": rates[0], "GB/s": rates[1]}
    if limits is None:
        return speed
    shares = {
        "multiply-adds": rates[0] / limits["f32 operations"],
        "reading": rates[1] / limits["bytes read"],
    }
    bound = max(shares, key=shares.__getitem__)
    return speed | {"share": shares[bound], "of": bound}


def _spins(backend: Any) -> float:
    """Seconds of processor time that its threads, or numpy's, take after a product is done."""
    from lcm.backend import measure

    if backend.kernels and "linear" not in backend.kernels:
        return 0.0
    sizes = {"rows": 256, "inputs": 256, "outputs": 256}
    return measure.aftermath("linear", sizes, backend if backend.kernels else None)


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


def _libraries() -> list[dict[str, Any]]:
    """The BLAS and OpenMP libraries in this process: several may fight over the cores."""
    from threadpoolctl import ThreadpoolController

    keys = ("user_api", "internal_api", "num_threads", "version", "filepath")
    return [{k: i.get(k) for k in keys} for i in ThreadpoolController().info()]


def _advice(backends: list[dict[str, Any]]) -> list[str]:
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
    for row in backends:
        if row.get("spins", 0) > SPIN:
            advice.append(
                f"threads of {row['name']} go on for {row['spins'] * 1e3:.0f} ms after a call, which slows "
                "whatever another backend does next"
            )
    if len(discovery.ready()) > 1 and not len(dispatch.table()):
        advice.append("nothing has been measured here yet: lcm tune")
    if not installed():
        advice.append("no model is installed: pip install 'lcm[tinycode]', or lcm train")
    return advice


def _print(report: dict[str, Any]) -> None:
    for name, value in report["host"].items():
        click.echo(f"{name:28} {'none' if value is None else value}")
    for name, value in (report["limits"] or {}).items():
        click.echo(f"{name:28} {value:,.0f} x 10^9 a second at best")
    for row in report["backends"]:
        _print_backend(row)
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


def _print_backend(row: dict[str, Any]) -> None:
    fix = f"; {row['fix']}" if row["fix"] else ""
    click.echo(f"\n{row['name']}: {row['state']}; {row['reason']}{fix}")
    for name, value in row["notes"].items():
        click.echo(f"  {name}: {value}")
    speeds = {speed["kernel"]: speed for speed in row["speeds"]}
    for check in row["checks"]:
        right = "right" if check["ok"] else "WRONG"
        speed = _in_words(speeds.pop(check["name"], None))
        click.echo(f"  {right}  {check['name']:20} {check['found']}{speed}".rstrip())
    for name, speed in speeds.items():
        click.echo(f"  {name}{_in_words(speed)}")


def _in_words(speed: dict[str, Any] | None) -> str:
    if speed is None:
        return ""
    name = "GFLOP/s" if speed["GFLOP/s"] else "GB/s"
    share = f", {speed['share']:.0%} of {speed['of']}" if "share" in speed else ""
    return f"; {speed['seconds'] * 1e3:.2f} ms, {speed[name]:.4g} {name}{share}"
