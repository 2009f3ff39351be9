"""The host record: from recorded readings, from this machine, and from files."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from lcm.cli.host import command, size_in_words
from lcm.errors import HostError, UsageError
from lcm.host import FEATURES, Fact, Host, current, load_named, parse_mask, probe, shipped
from lcm.host.features import X86_CPUID
from lcm.host.linux import LinuxReadings
from lcm.host.macos import APPLE_FEATURES, MAC_X86_NAMES
from lcm.host.windows import WINDOWS_FEATURES, WindowsReadings

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own files")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("LCM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


# From readings to the record.


@pytest.mark.parametrize("name", shipped())
def test_a_recorded_reading_gives_the_shipped_record(readings, name):
    assert readings(name).host() == load_named(name)


FACTS = {
    "graviton2": ("Neoverse N1 (Graviton2)", None, "asimddp fphp atomics", "sve i8mm bf16"),
    "graviton3": ("Neoverse V1 (Graviton3)", 256, "sve svebf16 svei8mm i8mm bf16", "sve2 sme"),
    "graviton4": ("Neoverse V2 (Graviton4)", 128, "sve sve2 svebf16 i8mm bf16", "sme"),
    "graviton3-vm-without-sve": ("Neoverse V1 (Graviton3 or 3E)", None, "i8mm bf16", "sve svei8mm"),
    "apple-m3": ("Apple M3", None, "asimd asimddp fphp asimdhp bf16 i8mm", "sme sve ebf16"),
    "apple-m1-rosetta": ("VirtualApple @ 2.50GHz", None, "sse4_2 pni ssse3", "avx avx2 asimd"),
    "graviton3e": ("Neoverse V1 (Graviton3E)", 256, "sve svebf16 svei8mm i8mm bf16", "sve2 sme"),
    "apple-m1-asahi": (
        "Icestorm + Firestorm (Apple M1)",
        None,
        "asimddp asimdfhm asimdhp frint",
        "sve bf16 i8mm",
    ),
    "rk3588": (
        "Cortex-A55 + Cortex-A76",
        None,
        "asimddp asimdhp atomics",
        "asimdfhm sve i8mm bf16",
    ),
    "x86-avx2": ("AMD EPYC 7763 64-Core Processor", None, "avx2 fma f16c", "avx512f svm"),
    "x86-avx512": (
        "Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz",
        None,
        "avx512f avx512bw avx512dq avx512vl avx512_vnni",
        "avx512_bf16 amx_tile vme",
    ),
}


@pytest.mark.parametrize("name", FACTS)
def test_a_shipped_record_says_what_is_known_of_the_machine(name):
    label, bits, present, absent = FACTS[name]
    host = load_named(name)
    assert (host.label.value, host.vector_bits.value) == (label, bits)
    assert host.has(*present.split())
    assert not host.features.value & set(absent.split())


def test_every_shipped_record_is_expected_to_say_something():
    assert set(FACTS) == set(shipped())


def test_a_feature_that_cpuid_denies_is_not_there(readings):
    """As under an emulator, whose /proc/cpuinfo is that of the real machine."""
    haswell = ((0, 0, 1 << 12 | 1 << 28 | 1 << 29, 0), (0, 1 << 5, 0, 0), *[(0, 0, 0, 0)] * 5)
    host = readings("x86-avx512", cpuid=haswell).host()
    assert host.features.value & set(X86_CPUID) == {"avx", "avx2", "fma", "f16c"}
    assert host.has("sse4_2", "bmi2")


@linux
def test_cpuid_and_the_kernel_agree_about_this_machine():
    reading = LinuxReadings.take()
    without = dataclasses.replace(reading, cpuid=())
    assert reading.host().features.value == without.host().features.value


def test_every_feature_of_every_system_has_a_name_of_linux():
    words = [*APPLE_FEATURES.values(), *MAC_X86_NAMES.values()]
    words += [names for numbers in WINDOWS_FEATURES.values() for names in numbers.values()]
    assert set(" ".join(words).split()) <= FEATURES


def test_the_efficiency_cores_of_intel_are_those_on_its_list(readings):
    files = {"/sys/devices/cpu_atom/cpus": "2-3,7\n"}
    assert readings("x86-avx2", files=files).host().efficiency_cores.value == 2


def test_a_32_bit_process_is_not_taken_for_a_64_bit_one(readings):
    assert readings("x86-avx2", bits=32).host().arch.value == "x86"
    assert readings("graviton3", bits=32).host().arch.value == "arm"


def test_windows_numbers_become_features():
    reading = WindowsReadings("amd64", 64, "Intel64", (6, 10, 39, 40), 8, 4096, 1 << 34)
    host = reading.host()
    assert (host.os.value, host.arch.value) == ("windows", "x86_64")
    assert host.features.value == {"sse", "sse2", "avx", "avx2", "fma", "f16c"}
    arm = dataclasses.replace(reading, machine="arm64", present=(19, 43, 66)).host()
    assert arm.features.value == {"fp", "asimd", "asimddp", "i8mm"}


# Quotas and threads.

V1 = "4:memory:/user\n1:cpu,cpuacct:/docker/abc\n0::/\n"
QUOTAS = {
    "v2": ("0::/a/b\n", {"/sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 1.5),
    "v2, of a group above": ("0::/a/b\n", {"/sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 0.5),
    "v2, seen from inside": ("0::/\n", {"/sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3.0),
    "v2, the least of two": (
        "0::/a/b\n",
        {
            "/sys/fs/cgroup/a/b/cpu.max": "400000 100000",
            "/sys/fs/cgroup/a/cpu.max": "200000 100000",
        },
        2.0,
    ),
    "v2, no limit": ("0::/a\n", {"/sys/fs/cgroup/a/cpu.max": "max 100000\n"}, None),
    "v1": (
        V1,
        {
            "/sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "250000\n",
            "/sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
        },
        2.5,
    ),
    "v1, seen from inside": (
        V1,
        {
            "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
            "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000\n",
        },
        2.0,
    ),
    "v1, no limit": (
        V1,
        {
            "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        None,
    ),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_the_quota_of_a_cgroup_is_found(readings, case):
    group, files, quota = QUOTAS[case]
    host = readings("x86-avx2", files={"/proc/self/cgroup": group, **files}).host()
    assert host.quota.value == quota
    if quota is not None:
        assert host.quota.source in files


@pytest.mark.parametrize(
    ("cores", "quota", "threads"),
    [(8, None, 8), (8, 2.0, 2), (8, 1.5, 2), (8, 0.5, 1), (8, 0.1, 1), (2, 6.0, 2), (1, None, 1)],
)
def test_threads_are_the_cores_within_the_quota(cores, quota, threads):
    host = dataclasses.replace(
        load_named("x86-avx2"), cores=Fact(cores, "a test"), quota=Fact(quota, "a test")
    )
    assert host.threads() == threads


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "1025", "٣", "9" * 5000, "10 ", "1\n2"])
def test_a_number_of_threads_that_cannot_be_meant_is_refused(monkeypatch, text):
    monkeypatch.setenv("LCM_THREADS", text)
    with pytest.raises(UsageError, match=r"^LCM_THREADS is .*from 1 to 1024") as error:
        probe().threads()
    assert len(str(error.value)) < 150


def test_the_number_of_threads_is_the_users(monkeypatch):
    for text in ("1", "7", "1024"):
        monkeypatch.setenv("LCM_THREADS", text)
        assert probe().threads() == int(text)


# This machine.


def test_the_probe_agrees_with_the_machine_that_runs_it():
    host = probe()
    assert host.os.value == {"linux": "linux", "darwin": "macos", "win32": "windows"}[sys.platform]
    assert host.cores.value >= host.performance_cores.value >= 1
    assert host.cores.value == host.performance_cores.value + host.efficiency_cores.value
    assert host.page_size.value in (4096, 16384, 65536)
    assert host.features.value
    assert host.features.value <= FEATURES
    assert all(fact.source for fact in host.facts().values())


@linux
def test_the_probe_respects_the_affinity_of_the_process():
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from lcm.host import probe; print(probe().cores.value, probe().threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


def test_probing_is_light():
    code = (
        "import time; from lcm.host import probe; start = time.perf_counter(); probe()\n"
        "import sys; print(time.perf_counter() - start)\n"
        "print('numpy' in sys.modules, 'pluggy' in sys.modules)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    assert min(float(run.stdout.split()[0]) for run in runs) < 0.05  # 5 ms; CI machines are slow
    assert all(run.stdout.split()[1:] == ["False", "False"] for run in runs)


# Files, settings, masks.


def test_a_saved_record_is_read_back_the_same(tmp_path):
    probe().save(tmp_path / "here.json")
    assert Host.load(tmp_path / "here.json") == probe()


def broken(change) -> str:
    data = json.loads(load_named("graviton3").to_json())
    change(data)
    return json.dumps(data)


BROKEN = {
    "not JSON": ("{", "not a readable host record"),
    "a list": ("[]", "must be a JSON object"),
    "unknown key": (broken(lambda data: data.update(gpu=1)), "unknown key 'gpu'"),
    "missing key": (broken(lambda data: data.pop("l2")), "missing key 'l2'"),
    "no source": (broken(lambda data: data["l2"].pop("source")), "missing key 'source' in 'l2'"),
    "fact of no shape": (broken(lambda data: data.update(l2=3)), "l2 must be a JSON object"),
    "wrong type": (broken(lambda data: data["l2"].update(value="2M")), "'l2' cannot have"),
    "truth for number": (broken(lambda data: data["cores"].update(value=True)), "'cores' cannot"),
    "number for truth": (broken(lambda data: data["rosetta"].update(value=1)), "'rosetta' cannot"),
    "feature that is no text": (
        broken(lambda data: data["features"].update(value=["sve", 1])),
        "'features' cannot have",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_record_is_refused_with_file_and_key(tmp_path, case):
    text, reason = BROKEN[case]
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(HostError) as error:
        Host.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert reason in str(error.value).replace("'l2' must", "l2 must")


def test_the_host_can_be_a_shipped_record_or_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("LCM_HOST", "graviton4")
    assert current() == load_named("graviton4")
    load_named("apple-m3").save(tmp_path / "mac.json")
    monkeypatch.setenv("LCM_HOST", str(tmp_path / "mac.json"))
    assert current() == load_named("apple-m3")
    monkeypatch.delenv("LCM_HOST")
    assert current() == probe()


def test_an_unknown_host_is_answered_with_the_nearest_one(monkeypatch):
    monkeypatch.setenv("LCM_HOST", "graviton33")
    with pytest.raises(UsageError, match="no host record 'graviton33'; there are: graviton3"):
        current()


def test_a_mask_takes_features_away_and_says_so(monkeypatch):
    monkeypatch.setenv("LCM_HOST", "graviton3")
    monkeypatch.setenv("LCM_ISA_MASK", "sve, svei8mm")
    masked, whole = current(), load_named("graviton3")
    assert whole.features.value - masked.features.value == {"sve", "svei8mm"}
    assert masked.features.source.endswith("less sve svei8mm (environment LCM_ISA_MASK)")
    assert masked.fingerprint() != whole.fingerprint()


@pytest.mark.parametrize("name", shipped())
def test_a_mask_never_adds_a_feature(monkeypatch, name):
    monkeypatch.setenv("LCM_HOST", name)
    monkeypatch.setenv("LCM_ISA_MASK", ",".join(sorted(FEATURES)))
    assert current().features.value == frozenset()


def test_an_unknown_feature_in_a_mask_is_answered_with_near_ones(monkeypatch):
    monkeypatch.setenv("LCM_ISA_MASK", "avx2,avx512vnni")
    with pytest.raises(UsageError, match=r"no instruction-set feature 'avx512vnni'; .*avx512_vnni"):
        current()
    assert parse_mask(" avx2,, fma ") == {"avx2", "fma"}


def test_the_fingerprint_is_of_what_matters_only():
    host = load_named("graviton3")
    other = dataclasses.replace(host, quota=Fact(1.0, "a test"), memory=Fact(1, "a test"))
    assert other.fingerprint() == host.fingerprint()
    for name, value in [("cores", 1), ("l2", 1), ("label", "x"), ("vector_bits", 128)]:
        changed = dataclasses.replace(host, **{name: Fact(value, "a test")})
        assert changed.fingerprint() != host.fingerprint(), name
    assert len({load_named(name).fingerprint() for name in shipped()}) == len(shipped())


# The command.


def test_the_command_prints_the_record_as_json(monkeypatch, tmp_path):
    monkeypatch.setenv("LCM_HOST", "graviton3")
    path = tmp_path / "saved.json"
    done = CliRunner().invoke(command, ["--json", "--save", str(path)])
    assert done.exit_code == 0
    assert done.stdout == load_named("graviton3").to_json()
    assert Host.load(path) == load_named("graviton3")


def test_the_command_prints_every_fact_with_its_source(monkeypatch):
    monkeypatch.setenv("LCM_HOST", "graviton3")
    monkeypatch.setenv("COLUMNS", "1000")
    done = CliRunner().invoke(command, [])
    lines = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    for name, fact in load_named("graviton3").facts().items():
        assert lines[name.replace("_", " ")].rstrip().endswith(fact.source)
    assert "32 MiB" in lines["l3"]


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (1023, "1023 B"), (49152, "48 KiB"), (1 << 20, "1 MiB"), (3 << 29, "1.5 GiB")],
)
def test_a_size_in_words(size, words):
    assert size_in_words(size) == words
