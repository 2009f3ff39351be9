"""LCM_TRUST: a plugin that is used without having been tried in a process of its own."""

from installing import install

from lcm.backend import discovery, ledger
from lcm.host import current


def verdict_on(name):
    return next(verdict for verdict in discovery.verdicts() if verdict.name == name)


def attempts(site):
    return (site / "hostile_slow" / "attempts").read_text().split()


def test_a_trusted_plugin_is_opened_at_once(site, monkeypatch):
    install(site, "slow")
    monkeypatch.setenv("LCM_TRUST", "other, slow")
    assert discovery.open_backend("slow").name == "slow"
    assert attempts(site) == ["parent"]
    said = verdict_on("slow")
    assert said.state == "ready"
    assert said.reason == "not tried: environment LCM_TRUST says that it can be trusted"


def test_others_are_tried_as_ever(site, monkeypatch):
    install(site, "slow", "polite")
    monkeypatch.setenv("LCM_TRUST", "polite")
    assert discovery.open_backend("slow").name == "slow"
    assert attempts(site) == ["child", "parent"]


def test_what_trust_has_opened_is_tried_once_it_is_trusted_no_more(site, monkeypatch):
    install(site, "slow")
    monkeypatch.setenv("LCM_TRUST", "slow")
    discovery.open_backend("slow")
    monkeypatch.delenv("LCM_TRUST")
    assert verdict_on("slow").reason == "passed its self-test"
    assert attempts(site) == ["parent", "child"]


def test_a_trusted_plugin_that_cannot_be_opened_has_its_verdict(site, monkeypatch):
    install(site, "raises")
    monkeypatch.setenv("LCM_TRUST", "raises")
    assert "raises" not in [backend.name for backend in discovery.ready()]
    assert (verdict_on("raises").state, verdict_on("raises").reason) == (
        "failed",
        "RuntimeError: not today",
    )


def test_a_trusted_plugin_whose_opening_ended_a_process_is_not_opened_again(site, monkeypatch):
    install(site, "slow")
    monkeypatch.setenv("LCM_TRUST", "slow")
    plugin = next(p for p in discovery.plugins.installed() if p.name == "slow")
    key = discovery._key(plugin, current())
    ledger.record(key, ledger.Outcome("slow", "started"))
    assert verdict_on("slow").state == "crashed"


def test_trust_overcomes_no_need(site, monkeypatch):
    install(site, "impossible")
    monkeypatch.setenv("LCM_TRUST", "impossible")
    assert verdict_on("impossible").state == "ineligible"
