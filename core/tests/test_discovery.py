"""Discovery against plugins that misbehave: each gets its verdict, and takes nothing else down."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner
from installing import install

from lcm.backend import contract, discovery, ledger, plugins, probe
from lcm.backend.contract import Backend
from lcm.backend.manifest import parse
from lcm.cli.backends import command
from lcm.errors import BackendError, FileError, LcmWarning, UsageError
from lcm.host import current, load_named, shipped

posix = pytest.mark.skipif(os.name != "posix", reason="the plugin sends itself a POSIX signal")


def verdict_on(name: str):
    found = [verdict for verdict in discovery.verdicts() if verdict.name == name]
    assert found, f"no verdict on {name}"
    return found[0]


def compile_library(folder: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.fail("this test needs a C compiler: install gcc or clang")
    command = [compiler, "-shared", "-fPIC", "-o", "kernels.so", "kernels.c"]
    subprocess.run(command, cwd=folder, check=True)


def in_new_process(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


OPEN = "from lcm.backend import discovery; print(discovery.open_backend({!r}).name)"


# A plugin as it should be.


def test_a_wrong_number_of_threads_is_the_users_error_and_not_held_against_a_plugin(
    site, monkeypatch
):
    install(site, "polite")
    monkeypatch.setenv("LCM_THREADS", "many")
    for ask in (discovery.verdicts, discovery.ready, lambda: discovery.open_backend("polite")):
        with pytest.raises(UsageError, match="LCM_THREADS is 'many'"):
            ask()
    monkeypatch.delenv("LCM_THREADS")
    assert verdict_on("polite").state == "ready"


def test_a_polite_plugin_is_ready_and_opens(site):
    install(site, "polite")
    assert verdict_on("polite").state == "ready"
    assert discovery.open_backend("polite").notes["host"] == current().describe()
    assert "polite" in [backend.name for backend in discovery.ready()]
    assert discovery.doctor_checks("polite")["mood"]() == "good"


def test_without_plugins_the_reference_is_ready(site):
    assert verdict_on("reference").state == "ready"
    assert discovery.open_backend("reference") in discovery.ready()


def test_a_backend_is_opened_once(site):
    install(site, "polite")
    assert discovery.open_backend("polite") is discovery.open_backend("polite")


def test_the_second_process_does_not_try_again_in_a_child(site):
    install(site, "slow")
    log = site / "hostile_slow" / "attempts"
    in_new_process(OPEN.format("slow"))
    assert log.read_text().split() == ["child", "parent"]
    in_new_process(OPEN.format("slow"))
    assert log.read_text().split() == ["child", "parent", "parent"]


def test_a_changed_file_is_tried_again(site):
    install(site, "slow")
    log = site / "hostile_slow" / "attempts"
    assert verdict_on("slow").state == verdict_on("slow").state == "ready"
    assert log.read_text().split() == ["child"]
    module = site / "hostile_slow" / "plugin.py"
    module.write_text(module.read_text() + "\nraise RuntimeError('changed')\n")
    assert "changed" in verdict_on("slow").reason


# Plugins that misbehave: the state, and words of the reason and the fix.

CASES = {
    "raises": ("failed", "RuntimeError: not today", "lcm backends --retry raises"),
    "exits": ("failed", "SystemExit: 3", "--retry"),
    "vanishes": ("failed", "code 0", "--retry"),
    "mutters": ("failed", "no such device", "--retry"),
    "abi_ahead": ("incompatible", "speaks ABI 99, this lcm up to 1", "--upgrade lcm"),
    "impossible": ("ineligible", "needs sve2p1 avx10", ""),
    "not_a_library": ("failed", "BackendError", "--retry"),
    "bad_toml": ("invalid", "not TOML", "hostile-bad-toml"),
    "no_manifest": ("invalid", "lcm_backend.toml: No such file", "hostile-no-manifest"),
    "no_package": ("invalid", "hostile_no_package is not there", "hostile-no-package"),
    "bad_entry": ("invalid", "hostile-bad-entry:lcm-backend.toml", "hostile-bad-entry"),
    "not_a_backend": ("failed", "open_backend returned int", "--retry"),
    "misnamed": ("failed", "somebody-else", "--retry"),
    "misspelt": ("failed", "open_backends", "--retry"),
    "vetoes": ("ineligible", "needs a full moon", "--retry"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_plugin_that_misbehaves_gets_its_state_reason_and_fix(site, name):
    install(site, name)
    state, reason, fix = CASES[name]
    found = verdict_on(name)
    assert found.state == state, found
    assert reason in found.reason
    assert "\n" not in found.reason
    assert fix in found.fix
    with pytest.raises(BackendError) as error:
        discovery.open_backend(name)
    assert str(error.value).startswith(f"no backend {name!r} here: {found.reason}")


def test_all_of_them_together_leave_the_polite_one_ready(site):
    install(site, "polite", *CASES, "twin_a", "twin_b")
    states = {verdict.name: verdict.state for verdict in discovery.verdicts()}
    assert {name: states[name] for name in CASES} == {name: CASES[name][0] for name in CASES}
    assert states["polite"] == states["reference"] == "ready"
    assert states["twin"] == "invalid"
    assert {"polite", "reference"} <= {backend.name for backend in discovery.ready()}


@pytest.mark.skipif(sys.platform == "win32", reason="the signals are POSIX")
@pytest.mark.parametrize(
    ("name", "signals"), [("sigill", "SIGILL SIGTRAP"), ("sigsegv", "SIGSEGV SIGBUS")]
)
def test_a_library_that_crashes_when_it_is_loaded_is_a_row_in_the_table(site, name, signals):
    install(site, name, "polite")
    compile_library(site / f"hostile_{name}")
    found = verdict_on(name)
    assert found.state == "crashed"
    assert found.reason.split()[-1] in signals.split()
    assert found.fix == f"lcm backends --retry {name}"
    assert discovery.open_backend("polite").name == "polite"


def test_a_plugin_that_hangs_is_ended_with_all_that_it_started(site, monkeypatch):
    install(site, "hangs")
    monkeypatch.setattr(probe, "SECONDS", 1.5)
    before = time.monotonic()
    found = verdict_on("hangs")
    assert time.monotonic() - before < 3
    assert (found.state, found.reason) == ("failed", "did not come to an end within 1.5 seconds")
    if os.name == "posix":
        time.sleep(4 - (time.monotonic() - before))
        assert not (site / "hostile_hangs" / "outlived").exists()


def test_two_plugins_of_one_name_are_both_invalid_and_named(site):
    install(site, "twin_a", "twin_b")
    twins = [verdict for verdict in discovery.verdicts() if verdict.name == "twin"]
    assert [twin.state for twin in twins] == ["invalid", "invalid"]
    assert "hostile-twin-a and hostile-twin-b" in twins[0].reason
    assert twins[0].fix == "pip uninstall hostile-twin-b"


def test_no_code_of_an_ineligible_plugin_is_run(site):
    install(site, "impossible")
    assert verdict_on("impossible").state == "ineligible"
    assert not (site / "hostile_impossible" / "was_run").exists()
    assert "hostile_impossible" not in sys.modules


def test_what_a_plugin_prints_never_reaches_standard_output(site):
    install(site, "prints")
    done = in_new_process(OPEN.format("prints"))
    assert done.stdout == "prints\n"
    assert done.stderr.count("hello from") == 4


def test_what_a_plugin_prints_never_reaches_what_stands_in_for_standard_output(site, capsys):
    install(site, "prints")
    discovery.open_backend("prints")
    assert capsys.readouterr().out == ""


def test_a_plugin_may_ask_for_the_backends_while_it_is_loaded(site):
    install(site, "recursive", "polite")
    assert verdict_on("recursive").state == "ready"
    assert verdict_on("polite").state == "ready"
    notes = discovery.open_backend("recursive").notes
    assert notes == {"ready": "polite reference", "itself": "failed"}
    assert verdict_on("recursive").state == "ready"


# The ledger.


@posix
def test_a_crash_of_the_process_that_opened_it_is_remembered(site):
    install(site, "betrays")
    assert in_new_process(OPEN.format("betrays")).returncode == -9
    found = verdict_on("betrays")
    assert found.state == "crashed"
    with pytest.raises(BackendError, match="--retry betrays"):
        discovery.open_backend("betrays")
    assert discovery.retry("betrays").state == "ready"


@posix
def test_a_crash_is_not_repeated_until_it_is_retried(site):
    install(site, "sigill")
    compile_library(site / "hostile_sigill")
    assert verdict_on("sigill").state == "crashed"
    start = time.monotonic()
    assert verdict_on("sigill").state == "crashed"
    assert time.monotonic() - start < 0.05, "a child process was started"
    assert discovery.retry("sigill").state == "crashed"


def test_a_failure_is_forgotten_when_something_is_installed(site):
    install(site, "raises")
    assert verdict_on("raises").state == "failed"
    attempts = []
    original = probe.attempt
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "attempt", lambda plugin: attempts.append(1) or original(plugin))
        verdict_on("raises")
        assert not attempts
        (site / "something_new").mkdir()
        verdict_on("raises")
        assert attempts


def test_ctrl_c_is_not_held_against_the_plugin(site, monkeypatch):
    install(site, "polite")

    def interrupt(plugin):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(probe, "attempt", interrupt)
        with pytest.raises(KeyboardInterrupt):
            discovery.verdicts()
    assert verdict_on("polite").state == "ready"


def test_processes_at_once_make_one_attempt_and_all_open_it(site):
    install(site, "slow")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-P", "-c", OPEN.format("slow")]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [process.communicate()[0] for process in running] == ["slow\n"] * 3
    log = (site / "hostile_slow" / "attempts").read_text().split()
    assert sorted(log) == ["child", "parent", "parent", "parent"]


def test_writers_at_once_lose_nothing(site):
    def write(number):
        for count in range(10):
            ledger.record(f"{number}-{count}", ledger.Outcome(f"n{number}", "ready"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = json.loads((Path(os.environ["LCM_CACHE_DIR"]) / "verdicts.json").read_text())
    assert len(written) == 40


def test_a_damaged_ledger_is_written_anew(site):
    install(site, "polite")
    path = Path(os.environ["LCM_CACHE_DIR"]) / "verdicts.json"
    path.parent.mkdir()
    path.write_text('{"half": ')
    assert verdict_on("polite").state == "ready"
    assert [entry["state"] for entry in json.loads(path.read_text()).values()] == ["ready"]


def test_the_ledger_does_not_grow_without_end(site):
    for number in range(ledger.KEPT + 5):
        ledger._memory[str(number)] = {"name": "x", "state": "ready", "when": number}
    ledger.record("last", ledger.Outcome("x", "ready"))
    assert ledger.recall("last") is not None
    assert ledger.recall("3") is None
    assert len(ledger._read()) == ledger.KEPT


def test_without_a_writable_cache_everything_works_with_one_warning(site, tmp_path, monkeypatch):
    install(site, "polite", "raises")
    (tmp_path / "file").touch()
    monkeypatch.setenv("LCM_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert discovery.open_backend("polite").name == "polite"
        assert verdict_on("raises").state == "failed"
    assert [warning.category for warning in caught] == [LcmWarning]
    assert "LCM_CACHE_DIR" in str(caught[0].message)


# Settings, versions and names.


def test_a_disabled_backend_is_blocked_and_not_run(site, monkeypatch):
    install(site, "slow")
    monkeypatch.setenv("LCM_DISABLE", os.environ["LCM_DISABLE"] + ", metal, slow")
    found = verdict_on("slow")
    assert (found.state, found.fix) == ("blocked", "take slow out of environment LCM_DISABLE")
    assert not (site / "hostile_slow" / "attempts").exists()


def test_a_plugin_of_a_later_abi_works_if_it_says_that_it_does(site):
    install(site, "abi_bridge")
    assert verdict_on("abi_bridge").state == "ready"


def test_a_plugin_of_an_abi_that_we_left_behind_is_incompatible(site, monkeypatch):
    install(site, "polite")
    monkeypatch.setattr(contract, "ABI", 5)
    assert verdict_on("polite").state == "ready"
    monkeypatch.setattr(contract, "ABI_OLDEST", 2)
    found = verdict_on("polite")
    assert found.state == "incompatible"
    assert found.fix == "pip install --upgrade hostile-polite"


def test_an_unknown_name_is_answered_with_the_nearest_one(site):
    install(site, "polite")
    with pytest.raises(BackendError, match=r"did you mean 'polite'\?; ready: .*polite, reference"):
        discovery.open_backend("polit")


def test_a_known_name_that_is_not_installed_is_answered_with_the_command(site, monkeypatch):
    monkeypatch.setattr(plugins, "installed", lambda: ())
    with pytest.raises(BackendError, match=r"pip install 'lcm-openblas==[\d.]+'"):
        discovery.open_backend("openblas")


# Selection, for machines that are not at hand.

NEEDS = {
    "openblas": "",
    "neon": 'arch = ["aarch64"]\nfeatures = ["asimd", "asimddp"]',
    "sve": 'os = ["linux"]\narch = ["aarch64"]\nfeatures = ["sve"]',
    "avx2": 'arch = ["x86_64"]\nfeatures = ["avx2", "fma", "f16c"]',
    "avx512": 'arch = ["x86_64"]\n'
    'features = ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"]',
    "accelerate": 'os = ["macos"]',
    "metal": 'os = ["macos"]\narch = ["aarch64"]',
}
SELECTED = {
    "graviton2": {"openblas", "neon"},
    "graviton3": {"openblas", "neon", "sve"},
    "graviton3e": {"openblas", "neon", "sve"},
    "graviton4": {"openblas", "neon", "sve"},
    "graviton3-vm-without-sve": {"openblas", "neon"},
    "apple-m1-asahi": {"openblas", "neon"},
    "rk3588": {"openblas", "neon"},
    "apple-m3": {"openblas", "neon", "accelerate", "metal"},
    "apple-m1-rosetta": {"openblas", "accelerate"},
    "x86-avx2": {"openblas", "avx2"},
    "x86-avx512": {"openblas", "avx2", "avx512"},
}


@pytest.fixture
def examples(site, monkeypatch):
    """Plugins with the needs of the usual ones, and code that must not be run."""
    found = []
    for name, needs in NEEDS.items():
        text = f'name = "{name}"\nabi = 1\nsummary = "x"\nlibrary = "none.so"\n{needs}\n'
        found.append(plugins.Plugin(name, f"lcm-{name}", "1", manifest=parse(text, name)))
    monkeypatch.setattr(plugins, "installed", lambda: tuple(found))
    monkeypatch.delenv("LCM_DISABLE")
    monkeypatch.setattr(probe, "attempt", lambda plugin: pytest.fail("tried for another machine"))


def test_every_shipped_host_is_expected_to_select_something():
    assert set(SELECTED) == set(shipped())


@pytest.mark.parametrize("host", SELECTED)
def test_the_right_plugins_are_selected_for(examples, host):
    verdicts = discovery.verdicts(load_named(host))
    ready = {verdict.name for verdict in verdicts if verdict.state == "ready"}
    assert ready == SELECTED[host] | {"reference"}


@pytest.mark.parametrize(
    ("host", "name", "reason", "fix"),
    [
        ("x86-avx2", "metal", "needs macOS, this is Linux (x86_64)", ""),
        ("graviton2", "sve", "needs sve, which this Neoverse N1 (Graviton2) does not have", ""),
        (
            "apple-m1-rosetta",
            "metal",
            "needs aarch64, this is macOS (x86_64 under Rosetta)",
            "use a Python for arm64, not one under Rosetta",
        ),
    ],
)
def test_an_ineligible_plugin_says_what_is_missing(examples, host, name, reason, fix):
    found = {verdict.name: verdict for verdict in discovery.verdicts(load_named(host))}[name]
    assert (found.state, found.reason, found.fix) == ("ineligible", reason, fix)


def test_a_mask_makes_a_plugin_ineligible_and_says_so(examples, monkeypatch):
    monkeypatch.setenv("LCM_HOST", "x86-avx512")
    monkeypatch.setenv("LCM_ISA_MASK", "avx512_vnni")
    found = {verdict.name: verdict for verdict in discovery.verdicts()}
    assert found["avx2"].state == "ready"
    assert found["avx512"].reason == "needs avx512_vnni, taken away by environment LCM_ISA_MASK"


def test_nothing_is_opened_for_a_machine_that_is_not_this_one(site, monkeypatch):
    install(site, "slow")
    monkeypatch.setenv("LCM_HOST", "graviton4")
    assert verdict_on("slow").state == "ready"
    with pytest.raises(BackendError, match="LCM_HOST is another machine"):
        discovery.open_backend("slow")
    assert [backend.name for backend in discovery.ready()] == ["reference"]
    assert not (site / "hostile_slow" / "attempts").exists()


# The manifest.

GOOD = 'name = "x"\nabi = 1\nsummary = "An example"\nlibrary = "x.so"\n'
BAD = {
    "unknown key": ('colour = "red"\n', "unknown key 'colour'"),
    "abi as text": ('abi = "1"\n', "'abi' must be a whole number"),
    "abi as truth": ("abi = true\n", "'abi' must be a whole number"),
    "abi as fraction": ("abi = 1.0\n", "'abi' must be a whole number"),
    "abi of none": ("abi = 0\n", "'abi' must be a whole number"),
    "synonym": ('arch = ["arm64"]\n', "write 'aarch64' for 'arm64'"),
    "unknown system": ('os = ["beos"]\n', "no system 'beos'"),
    "features as text": ('features = "avx2"\n', "'features' must be a list"),
    "library elsewhere": ('library = "../evil.so"\n', "must stay inside the package"),
    "library anywhere": ('library = "/tmp/evil.so"\n', "must stay inside the package"),
    "library of Windows": ('library = "..\\\\evil.dll"\n', "a path inside the package"),
    "reserved name": ('name = "reference"\n', "lcm's own"),
    "capital name": ('name = "X"\n', "in small letters"),
    "bad module": ('module = "a-b"\n', "the dotted name of a module"),
    "bad command": ('[commands]\nx = "a:b"\n', "must have 'target' and 'help'"),
    "variants without a table": ('variants = ["b.so"]\n', "must be a table of libraries"),
    "variant elsewhere": ('[variants]\n"../b.so" = ["avx2"]\n', "must stay inside the package"),
    "variant without a list": ('[variants]\n"b.so" = "avx2"\n', "'variants.b.so' must be a list"),
    "summary of two lines": ('summary = "a\\nb"\n', "one line of text"),
}


def test_a_good_manifest_is_read():
    more = '[commands.x-info]\ntarget = "x.commands:info"\nhelp = "Show it"\n'
    manifest = parse(GOOD + 'features = ["avx2"]\n' + more, "x.toml")
    assert (manifest.name, manifest.abi, manifest.features) == ("x", 1, ("avx2",))
    assert manifest.commands["x-info"].target == "x.commands:info"


def test_the_first_variant_whose_features_are_all_there_is_the_library():
    more = '[variants]\n"c.so" = ["fma", "avx_vnni"]\n"b.so" = ["avx_vnni"]\n'
    manifest = parse(GOOD + more, "x.toml")
    assert manifest.libraries == ("x.so", "c.so", "b.so")
    assert manifest.library_for({"fma", "avx_vnni"}.__contains__) == "c.so"
    assert manifest.library_for({"avx_vnni"}.__contains__) == "b.so"
    assert manifest.library_for({"fma"}.__contains__) == "x.so"


def test_where_there_are_only_variants_the_least_that_one_needs_is_known():
    lines = "".join(line for line in GOOD.splitlines(keepends=True) if "library" not in line)
    more = '"c.so" = ["sve256", "i8mm"]\n"b.so" = ["sve256"]\n"a.so" = ["sve", "sve128"]\n'
    manifest = parse(f"{lines}[variants]\n{more}", "x.toml")
    assert manifest.libraries == ("c.so", "b.so", "a.so")
    assert manifest.library_for({"i8mm"}.__contains__) is None
    assert manifest.least_features() == ["sve256", "sve sve128"]
    assert parse(GOOD + "[variants]\n" + more, "x.toml").least_features() == []


@pytest.mark.parametrize("case", BAD)
def test_a_bad_manifest_is_refused_with_file_and_key(case):
    line, reason = BAD[case]
    key = line.split(" = ")[0]
    text = "".join(one + "\n" for one in GOOD.splitlines() if not one.startswith(key + " ="))
    with pytest.raises(FileError) as error:
        parse(text + line, "x.toml")
    assert str(error.value).startswith("x.toml: ")
    assert reason in str(error.value)


@pytest.mark.parametrize("key", ["name", "abi", "summary", "library"])
def test_a_manifest_needs(key):
    text = "".join(line + "\n" for line in GOOD.splitlines() if not line.startswith(key))
    with pytest.raises(FileError, match=key):
        parse(text, "x.toml")


def test_the_backend_of_the_contract_needs_only_a_name_and_kernels():
    backend = Backend("x", {})
    assert (backend.version, backend.library, backend.threads, dict(backend.notes)) == (
        "", None, None, {},
    )  # fmt: skip


# The command.


def test_the_command_lists_every_verdict(site, monkeypatch):
    install(site, "polite", "raises")
    monkeypatch.setenv("COLUMNS", "200")
    done = CliRunner().invoke(command, [])
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "RuntimeError: not today" in lines["raises"]
    assert lines["raises"].rstrip().endswith("lcm backends --retry raises")
    assert lines["polite"].split()[:3] == ["polite", "1.0", "ready"]


def test_the_command_prints_verdicts_as_json(site):
    install(site, "impossible")
    done = CliRunner().invoke(command, ["--json"])
    found = {verdict["name"]: verdict for verdict in json.loads(done.stdout)}
    assert found["impossible"]["state"] == "ineligible"
    assert found["impossible"]["manifest"]["features"] == ["sve2p1", "avx10"]
    assert found["reference"]["manifest"] is None


@posix
def test_the_command_tries_again_what_it_remembers_as_crashed(site):
    install(site, "betrays")
    in_new_process(OPEN.format("betrays"))
    assert verdict_on("betrays").state == "crashed"
    done = CliRunner().invoke(command, ["--json", "--retry", "betrays"])
    assert [verdict["state"] for verdict in json.loads(done.stdout)] == ["ready"]


def test_the_command_refuses_to_retry_what_is_not_there(site):
    install(site, "polite")
    done = CliRunner().invoke(command, ["--retry", "polit"])
    assert isinstance(done.exception, BackendError)
    assert "did you mean 'polite'?" in str(done.exception)
