"""lcm doctor: wrong kernels are caught however late they go wrong, and the report says what to do."""

import json

import pytest
from click.testing import CliRunner
from installing import install

from lcm.backend import discovery, plugins
from lcm.cli import doctor as doctor_command
from lcm.cli.doctor import command


def verdict_on(name):
    return next(v for v in discovery.verdicts() if v.name == name)


def doctor():
    found = CliRunner().invoke(command, ["--json"])
    return found.exit_code, json.loads(found.stdout)


def test_wrong_numbers_are_caught_by_the_self_test(site):
    install(site, "wrong")
    verdict = verdict_on("wrong")
    assert verdict.state == "failed"
    assert "its silu is wrong by" in verdict.reason


def test_a_kernel_that_does_not_exist_is_a_lie(site):
    install(site, "liar")
    verdict = verdict_on("liar")
    assert verdict.state == "failed"
    assert "'teleport' is no kernel of lcm's" in verdict.reason


def test_numbers_that_go_wrong_at_scale_are_caught_by_doctor(site):
    install(site, "wrong_at_scale")
    assert verdict_on("wrong_at_scale").state == "ready"
    code, report = doctor()
    (row,) = [b for b in report["backends"] if b["name"] == "wrong_at_scale"]
    assert code == 1
    assert [c["ok"] for c in row["checks"]] == [False]


def test_a_healthy_machine_ends_with_code_0_and_the_plugins_own_checks(site):
    install(site, "polite")
    code, report = doctor()
    (row,) = [b for b in report["backends"] if b["name"] == "polite"]
    assert code == 0
    assert row["checks"] == [{"name": "mood", "ok": True, "found": "good"}]


def test_the_report_names_threads_libraries_and_speed(site):
    _, report = doctor()
    assert report["host"]["threads"] >= 1
    (reference,) = [b for b in report["backends"] if b["name"] == "reference"]
    (product,) = reference["speeds"]
    assert product["kernel"] == "linear" and product["GFLOP/s"] > 0
    assert all(set(x) >= {"internal_api", "num_threads", "filepath"} for x in report["libraries"])


def test_a_backend_that_is_not_installed_is_advised_with_the_exact_command(site, monkeypatch):
    monkeypatch.setattr(plugins, "installed", lambda: ())
    monkeypatch.setattr(discovery, "_offered", lambda: {"openblas": "lcm-openblas==0.1.0"})
    _, report = doctor()
    assert "this machine could use openblas: pip install 'lcm-openblas==0.1.0'" in report["advice"]


@pytest.mark.parametrize(
    ("host", "offered"),
    [("x86-avx512", {"avx2", "avx512"}), ("x86-avx2", {"avx2"}), ("graviton2", set())],
)
def test_a_backend_named_for_an_instruction_set_is_offered_where_that_is(
    site, monkeypatch, host, offered
):
    monkeypatch.setattr(plugins, "installed", lambda: ())
    monkeypatch.setattr(
        discovery, "_offered", lambda: {n: f"lcm-{n}" for n in ("avx2", "avx512", "blas")}
    )
    monkeypatch.setenv("LCM_HOST", host)
    assert set(discovery.not_installed()) == offered | {"blas"}


def test_a_kernels_speed_is_a_share_of_the_limit_that_binds_it(site, monkeypatch):
    machine = {"f32 operations": 1e6, "f64 operations": 1e6, "bytes read": 1e-3}
    monkeypatch.setattr(doctor_command, "_limits", lambda: machine)
    install(site, "polite")
    _, report = doctor()
    (reference,) = [b for b in report["backends"] if b["name"] == "reference"]
    (product,) = reference["speeds"]
    assert product["of"] == "reading"
    assert product["share"] == pytest.approx(product["GB/s"] / machine["bytes read"])
    machine["bytes read"], machine["f32 operations"] = 1e6, 1e-3
    assert doctor_command._speed("linear", 1.0, machine)["of"] == "multiply-adds"


def test_threads_that_do_not_rest_after_a_call_are_told(site, monkeypatch):
    monkeypatch.setattr(doctor_command, "_spins", lambda backend: 0.06)
    _, report = doctor()
    assert (
        "threads of reference go on for 60 ms after a call, which slows whatever another backend "
        "does next" in report["advice"]
    )
