"""What is read from an Arm machine with Linux: features, kinds of cores, and what they are called."""

import dataclasses

import pytest

from lcm.host import linux, load_named, shipped
from lcm.host.features import HWCAP, HWCAP2, SVE_LENGTHS

CPUS = "/sys/devices/system/cpu"
DMI = "/sys/devices/virtual/dmi/id"
WITH_LINUX = [name for name in shipped() if load_named(name).os.value == "linux"]
ARM = [name for name in WITH_LINUX if load_named(name).arch.value == "aarch64"]
X86_TEXT = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) CPU\nflags\t\t: sse avx2\n\n"


def files_of_cores(name, values):
    """The files of sysfs by that name, one for each core."""
    return {f"{CPUS}/cpu{cpu}/{name}": f"{value}\n" for cpu, value in enumerate(values)}


# Features.


@pytest.mark.parametrize("name", ARM)
def test_hwcap_words_decode_to_what_cpuinfo_prints(readings, name):
    reading = readings(name)
    line = next(x for x in reading.files["/proc/cpuinfo"].splitlines() if x.startswith("Features"))
    length = reading.sve_vl & 0xFFFF
    lengths = {f"sve{8 * length}"} if reading.sve_vl > 0 else set()
    assert load_named(name).features.value == set(line.split(":")[1].split()) | lengths


@pytest.mark.parametrize(
    ("table", "name", "bit"),
    [  # from <asm/hwcap.h>
        (HWCAP, "asimd", 1), (HWCAP, "atomics", 8), (HWCAP, "fphp", 9), (HWCAP, "asimdhp", 10),
        (HWCAP, "asimddp", 20), (HWCAP, "sve", 22), (HWCAP, "asimdfhm", 23), (HWCAP, "pacg", 31),
        (HWCAP, "gcs", 32), (HWCAP, "svef16mm", 37), (HWCAP, "sve2p2", 41), (HWCAP, "smesmop4", 47),
        (HWCAP2, "sve2", 1), (HWCAP2, "svei8mm", 9), (HWCAP2, "svebf16", 12),
        (HWCAP2, "i8mm", 13), (HWCAP2, "bf16", 14), (HWCAP2, "sme", 23), (HWCAP2, "smefa64", 30),
        (HWCAP2, "ebf16", 32), (HWCAP2, "sve2p1", 36), (HWCAP2, "sme2", 37), (HWCAP2, "poe", 63),
    ],
)  # fmt: skip
def test_a_feature_stands_at_its_bit(table, name, bit):
    assert table.index(name) == bit


@pytest.mark.parametrize("bits", range(128, 2049, 128))
def test_the_length_of_vectors_is_a_feature(readings, bits):
    host = readings("graviton3", sve_vl=bits // 8 | 1 << 17).host()  # 1 << 17: children inherit it
    assert host.vector_bits.value == bits
    assert host.features.value & set(SVE_LENGTHS) == {f"sve{bits}"}


def test_of_a_32_bit_process_no_feature_is_believed(readings):
    """Its words of HWCAP have other meanings: bit 22 is no SVE."""
    for machine in ("aarch64", "armv8l", "armv7l"):
        host = readings("graviton3", bits=32, machine=machine).host()
        assert (host.arch.value, host.features.value) == ("arm", frozenset())
        assert host.features.source == "not looked for in a 32-bit process"
        assert (host.vector_bits.value, host.label.value) == (None, "Neoverse V1 (Graviton3)")


# What the cores are called.


def label(reading):
    return reading.host().label.value


def with_part(readings, part, **files):
    text = readings("graviton2").files["/proc/cpuinfo"].replace("0xd0c", part)
    return readings("graviton2", files={"/proc/cpuinfo": text, **files})


def test_a_part_without_a_name_is_called_by_its_number(readings):
    assert label(with_part(readings, "0xabc")) == "Arm part 0x41:0xabc"


def test_the_label_names_the_kinds_of_cores_that_may_be_used(readings):
    text = readings("graviton2").files["/proc/cpuinfo"].replace("0xd0c", "0xd0b", 1)
    files = {"/proc/cpuinfo": text}
    assert label(readings("graviton2", files=files)) == "Cortex-A76 + Neoverse N1 (Graviton2)"
    one = readings("graviton2", files=files, affinity=(1, 2)).host()
    assert (one.label.value, one.cores.value) == ("Neoverse N1 (Graviton2)", 2)


@pytest.mark.parametrize(
    ("affinity", "name"),
    [((0, 3), "Icestorm (Apple M1)"), ((7,), "Firestorm (Apple M1)"),
     ((5, 1), "Firestorm + Icestorm (Apple M1)")],
)  # fmt: skip
def test_kinds_of_one_chip_name_it_once(readings, affinity, name):
    assert label(readings("apple-m1-asahi", affinity=affinity)) == name


@pytest.mark.parametrize(
    ("part", "instance", "name"),
    [
        ("0xd08", "a1.large", "Cortex-A72 (Graviton1)"),
        ("0xd0c", "t4g.micro", "Neoverse N1 (Graviton2)"),
        ("0xd0c", "im4gn.16xlarge", "Neoverse N1 (Graviton2)"),
        ("0xd0c", "m6g.metal", "Neoverse N1 (Graviton2)"),
        ("0xd40", "c7g.16xlarge", "Neoverse V1 (Graviton3)"),
        ("0xd40", "r7gd.xlarge", "Neoverse V1 (Graviton3)"),
        ("0xd40", "c7gn.4xlarge", "Neoverse V1 (Graviton3E)"),
        ("0xd40", "hpc7g.16xlarge", "Neoverse V1 (Graviton3E)"),
        ("0xd4f", "r8g.metal-48xl", "Neoverse V2 (Graviton4)"),
        ("0xd84", "m9g.large", "Neoverse V3 (Graviton5)"),
        ("0xd0c", "c7gn.large", "Neoverse N1 (Graviton2)"),
        # An emulator on an instance that has no such processor, and a firmware of someone else's.
        ("0xd40", "c7i.large", "Neoverse V1 (Graviton3 or 3E)"),
        ("0xd4f", "c7gnoid", "Neoverse V2 (Graviton4, Grace or Axion)"),
    ],
)
def test_the_instance_tells_which_graviton_it_is(readings, part, instance, name):
    assert label(with_part(readings, part, **{f"{DMI}/product_name": f"{instance}\n"})) == name


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("0xd0c", "Neoverse N1 (Graviton2 or Altra)"),
        ("0xd40", "Neoverse V1 (Graviton3 or 3E)"),
        ("0xd4f", "Neoverse V2 (Graviton4, Grace or Axion)"),
        ("0xd84", "Neoverse V3"),
    ],
)
def test_what_the_firmware_does_not_tell_is_left_open(readings, part, name):
    for vendor in ("", "NVIDIA\n"):
        assert label(with_part(readings, part, **{f"{DMI}/sys_vendor": vendor})) == name


def test_the_label_decides_nothing(readings):
    one, other = readings("graviton4").host(), with_part(readings, "0xabc").host()
    renamed = dataclasses.replace(readings("graviton4"), files=with_part(readings, "0xabc").files)
    assert renamed.host().label == other.label != one.label
    assert renamed.host().features == one.features


# /proc/cpuinfo that says nothing of these cores.


def test_the_processor_of_an_emulators_host_is_not_named(readings):
    """As under qemu-aarch64 on x86-64, where the file is that of the real machine."""
    host = readings("graviton3", files={"/proc/cpuinfo": X86_TEXT}).host()
    assert host.label.value == "aarch64"
    assert host.label.source == "uname; neither /proc/cpuinfo nor midr_el1 tells a part"
    assert host.features == load_named("graviton3").features


def test_the_name_of_a_32_bit_personality_is_not_taken_for_a_model(readings):
    text = readings("graviton2").files["/proc/cpuinfo"]
    text = text.replace("BogoMIPS", "model name\t: ARMv8 Processor rev 1 (v8l)\nBogoMIPS")
    assert label(readings("graviton2", files={"/proc/cpuinfo": text})) == "Neoverse N1 (Graviton2)"


def test_midr_tells_the_parts_where_cpuinfo_does_not(readings):
    name = "regs/identification/midr_el1"
    midr = files_of_cores(name, ["0x00000000412fd050"] * 4 + ["0x00000000414fd0b0"] * 4)
    for text in ("", X86_TEXT):
        host = readings("rk3588", files={"/proc/cpuinfo": text, **midr}).host()
        assert host.label.value == "Cortex-A55 + Cortex-A76"
        assert host.label.source == f"{CPUS}/cpu*/{name} over the usable CPUs"
    few = readings("rk3588", affinity=(6,), files={"/proc/cpuinfo": "", **midr})
    assert label(few) == "Cortex-A76"
    broken = files_of_cores(name, ["", "none"] * 4)
    assert label(readings("rk3588", files={"/proc/cpuinfo": "", **broken})) == "aarch64"


def test_of_a_long_file_only_whole_paragraphs_are_read(readings, tmp_path):
    """Of 192 processors /proc/cpuinfo is longer than what is read; the others' parts are in MIDR."""
    stanza = readings("graviton4").files["/proc/cpuinfo"].split("\n\n")[0].split("\n", 1)[1]
    text = "".join(f"processor\t: {cpu}\n{stanza}\n\n" for cpu in range(192))
    (tmp_path / "cpuinfo").write_text(text)
    read = linux._read(str(tmp_path / "cpuinfo"))
    assert read == text[: len(read)] and read.endswith("\n\n") and 60_000 < len(read) < len(text)
    (tmp_path / "short").write_text(text[:1000])
    assert linux._read(str(tmp_path / "short")) == text[:1000]
    last = {f"{CPUS}/cpu191/regs/identification/midr_el1": "0x00000000410fd4f1\n"}
    host = readings("graviton4", affinity=(191,), files={"/proc/cpuinfo": read, **last}).host()
    assert host.label.value == "Neoverse V2 (Graviton4)"
    assert "midr_el1" in host.label.source


# Cores of several kinds.


@pytest.mark.parametrize(
    ("capacity", "performance", "efficiency"),
    [  # from capacity-dmips-mhz of their device trees, by the clocks of the kinds
        pytest.param([530] * 4 + [1024] * 4, 4, 4, id="RK3588, its clocks not known"),
        pytest.param([397] * 4 + [1024] * 4, 4, 4, id="RK3588"),
        pytest.param([160] * 4 + [498] * 2 + [1024] * 2, 4, 4, id="Pixel 6"),
        pytest.param([523] * 4 + [1024] * 4, 4, 4, id="Apple M2"),
        pytest.param([732] * 4 + [1024] * 4, 8, 0, id="two kinds, both large"),
        pytest.param([1024] * 8, 8, 0, id="Graviton"),
        pytest.param(
            [400, 390, 420, 400, 1000, 1024, 980, 1024], 4, 4, id="cores of a kind differ"
        ),
        pytest.param([""] * 8, 8, 0, id="the kernel does not say"),
    ],
)
def test_efficiency_cores_are_the_weakest_if_much_weaker(
    readings, capacity, performance, efficiency
):
    host = readings("rk3588", files=files_of_cores("cpu_capacity", capacity)).host()
    assert (host.performance_cores.value, host.efficiency_cores.value) == (performance, efficiency)


def test_efficiency_cores_are_counted_among_the_usable_ones(readings):
    for affinity, few in (((0, 1, 4), 2), ((4, 5), 0), ((0, 1), 0)):
        assert readings("rk3588", affinity=affinity).host().efficiency_cores.value == few


@pytest.mark.parametrize(("affinity", "core"), [(range(8), 4), ((0, 3), 0), ((7,), 7), ((1, 6), 6)])
def test_the_caches_are_those_of_a_strongest_usable_core(readings, affinity, core):
    one, four = (
        {k: v for k, v in readings("rk3588").files.items() if f"cpu{n}/cache" in k} for n in (0, 4)
    )
    files = {k.replace("cpu4/", f"cpu{n}/"): v for n in (4, 6, 7) for k, v in four.items()} | one
    host = readings("rk3588", affinity=tuple(affinity), files=files).host()
    assert host.l2.source == f"{CPUS}/cpu{core}/cache/index2/size"
    assert host.l2.value == (128 << 10 if core == 0 else 512 << 10)


def test_every_file_that_decides_is_read(monkeypatch):
    """What the tests above change is what `take` asks the system for."""
    asked = []
    monkeypatch.setattr(linux, "_read", lambda name: asked.append(name) or "")
    monkeypatch.setattr(linux.os, "sched_getaffinity", lambda _: {0, 5}, raising=False)
    linux.LinuxReadings.take()
    names = ["cpu_capacity", "regs/identification/midr_el1"]
    wanted = {f"{CPUS}/cpu{cpu}/{name}" for cpu in (0, 5) for name in names}
    wanted |= {f"{DMI}/sys_vendor", f"{DMI}/product_name", "/proc/cpuinfo"}
    wanted |= {f"{CPUS}/cpu0/cache/index2/size"}
    assert wanted <= set(asked)
