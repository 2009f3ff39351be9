"""What Linux says about a machine: /proc, /sys, the auxiliary vector and the scheduler."""

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from lcm.host import arm_parts, calls
from lcm.host.features import HWCAP, HWCAP2, X86_CPUID, X86_FEATURES
from lcm.host.record import POINTER_BITS, Fact, Host, architecture

_CPUS = "/sys/devices/system/cpu"

# An efficiency core's capacity, of that of the strongest: those of an RK3588 have 0.52 before its clocks
# are known, those of an Apple M2 0.51; the middle cores of phones with two kinds have 0.7 and more.
MUCH_WEAKER = 0.6
_DMI = "/sys/devices/virtual/dmi/id"
_LONGEST = 1 << 16  # of a file's text: of a hundred processors the start will do


@dataclass(frozen=True)
class LinuxReadings:
    """What Linux says: files as they are, auxiliary values, and what the scheduler allows."""

    machine: str
    bits: int
    affinity: tuple[int, ...]
    page_size: int
    hwcap: int
    hwcap2: int
    sve_vl: int  # the answer of prctl(PR_SVE_GET_VL): negative without SVE
    files: Mapping[str, str]
    cpuid: tuple[tuple[int, ...], ...] = ()  # by leaf, what glibc says can be used, if it says so

    @classmethod
    def take(cls) -> "LinuxReadings":
        affinity = tuple(sorted(os.sched_getaffinity(0)))
        machine = platform.machine()
        arm = architecture(machine, bits=POINTER_BITS) == "aarch64"
        files = {name: _read(name) for name in _files_of_cores(affinity)}
        names = _system_files(_strongest(affinity, files))
        names += _cgroup_files(_read("/proc/self/cgroup"))
        files |= {name: _read(name) for name in names}
        return cls(
            machine=machine,
            bits=POINTER_BITS,
            affinity=affinity,
            page_size=os.sysconf("SC_PAGE_SIZE"),
            hwcap=calls.auxiliary_value(16) if arm else 0,
            hwcap2=calls.auxiliary_value(26) if arm else 0,
            sve_vl=calls.sve_vector_length() if arm else -1,
            files={name: text for name, text in files.items() if text},
            cpuid=tuple(map(calls.usable_cpuid, range(7))) if machine == "x86_64" else (),
        )

    def host(self) -> Host:
        arch = architecture(self.machine, bits=self.bits)
        few, many = self._efficiency(), len(self.affinity)
        return Host(
            os=Fact("linux", "sys.platform"),
            arch=Fact(arch, "uname"),
            label=self._label(arch),
            features=self._features(arch),
            vector_bits=self._vector_bits(arch),
            l1d=self._cache(1),
            l2=self._cache(2),
            l3=self._cache(3),
            cores=Fact(many, "sched_getaffinity"),
            performance_cores=Fact(many - few.value, few.source),
            efficiency_cores=few,
            quota=self._quota(),
            page_size=Fact(self.page_size, "sysconf(SC_PAGE_SIZE)"),
            memory=self._memory(),
            rosetta=Fact(False, "not macOS"),
        )

    def _vector_bits(self, arch: str) -> Fact[int | None]:
        if arch != "aarch64":
            return Fact(None, "not aarch64")
        length = (self.sve_vl & 0xFFFF) * 8 if self.sve_vl > 0 else None
        return Fact(length, "prctl(PR_SVE_GET_VL)")

    def _features(self, arch: str) -> Fact[frozenset[str]]:
        if arch == "aarch64":  # the kernel says what all cores have
            source = f"getauxval: AT_HWCAP {self.hwcap:#x}, AT_HWCAP2 {self.hwcap2:#x}"
            length = self._vector_bits(arch).value
            names = _bits(HWCAP, self.hwcap) + _bits(HWCAP2, self.hwcap2)
            return Fact(frozenset([*names, *([f"sve{length}"] if length else [])]), source)
        if arch == "arm":
            return Fact(frozenset(), "not looked for in a 32-bit process")
        flags = next(iter(self._processors()), {}).get("flags", "").split()
        features = frozenset(flags).intersection(X86_FEATURES)
        if not self.cpuid or not all(self.cpuid):
            return Fact(features, "/proc/cpuinfo flags")
        # Under an emulator the file may be that of the real machine, where cpuid is right.
        places = X86_CPUID.items()
        denied = {n for n, (leaf, word, bit) in places if not self.cpuid[leaf][word] >> bit & 1}
        return Fact(features - denied, "/proc/cpuinfo flags that cpuid does not deny")

    def _processors(self) -> list[dict[str, str]]:
        stanzas = self.files.get("/proc/cpuinfo", "").strip().split("\n\n")
        pairs = [dict(_pair(line) for line in stanza.splitlines()) for stanza in stanzas]
        return [pair for pair in pairs if "processor" in pair]

    def _label(self, arch: str) -> Fact[str]:
        if arch in ("aarch64", "arm"):
            return self._arm_label()
        models = [" ".join(cpu.get("model name", "").split()) for cpu in self._processors()]
        label = " + ".join(dict.fromkeys(filter(None, models)))
        return Fact(label, "/proc/cpuinfo") if label else Fact(self.machine, "uname")

    def _arm_label(self) -> Fact[str]:
        """The kinds of usable cores; under an emulator /proc/cpuinfo may be another processor's."""
        texts = {int(cpu["processor"]): cpu for cpu in self._processors() if "CPU part" in cpu}
        parts, sources = [], []
        for cpu in self.affinity:
            midr = f"{_CPUS}/cpu{cpu}/regs/identification/midr_el1"
            if text := texts.get(cpu):
                parts.append((int(text.get("CPU implementer", "0"), 16), int(text["CPU part"], 16)))
                sources.append("/proc/cpuinfo")
            elif part := arm_parts.of_midr(self.files.get(midr, "")):
                parts.append(part)
                sources.append(f"{_CPUS}/cpu*/regs/identification/midr_el1")
        if not parts:
            return Fact(self.machine, "uname; neither /proc/cpuinfo nor midr_el1 tells a part")
        vendor, product = (
            self.files.get(f"{_DMI}/{name}", "").strip() for name in ("sys_vendor", "product_name")
        )
        label = arm_parts.label(parts, vendor=vendor, product=product)
        return Fact(label, f"{' and '.join(dict.fromkeys(sources))} over the usable CPUs")

    def _cache(self, level: int) -> Fact[int | None]:
        folder = f"{_CPUS}/cpu{_strongest(self.affinity, self.files)}/cache"
        for index in range(5):
            name = f"{folder}/index{index}/"
            kind = self.files.get(name + "type", "").strip()
            here = self.files.get(name + "level", "").strip() == str(level)
            if here and kind in ("Data", "Unified"):
                return Fact(_size(self.files.get(name + "size", "")), name + "size")
        return Fact(None, f"nothing in {folder}")

    def _efficiency(self) -> Fact[int]:
        """Usable cores that are slower by design: on Intel's list, or the weakest, and much weaker.

        Of three kinds, as in a Pixel, the middle one is none; cores of a kind may differ by a quarter.
        """
        atoms = self.files.get("/sys/devices/cpu_atom/cpus")
        if atoms:
            few = _cpu_list(atoms) & set(self.affinity)
            return Fact(len(few), "/sys/devices/cpu_atom/cpus")
        capacity = [one for cpu in self.affinity if (one := _capacity(cpu, self.files))]
        if not capacity:
            return Fact(0, "no cpu_capacity in sysfs")
        differs = min(capacity) < MUCH_WEAKER * max(capacity)
        weakest = sum(one <= 1.25 * min(capacity) for one in capacity)
        return Fact(weakest if differs else 0, f"{_CPUS}/cpu*/cpu_capacity")

    def _quota(self) -> Fact[float | None]:
        quotas: list[tuple[float, str]] = []
        for name in _cgroup_files(self.files.get("/proc/self/cgroup", "")):
            text = self.files.get(name, "").split()
            if name.endswith("cpu.cfs_quota_us"):
                text += self.files.get(name.replace("quota", "period"), "").split()
            if len(text) == 2 and text[0].isdigit() and int(text[1]) > 0:
                quotas.append((int(text[0]) / int(text[1]), name))
        return Fact(*min(quotas)) if quotas else Fact(None, "no cgroup limits it")

    def _memory(self) -> Fact[int | None]:
        for line in self.files.get("/proc/meminfo", "").splitlines():
            if line.startswith("MemTotal:"):
                return Fact(_size(line.split()[1] + "K"), "/proc/meminfo")
        return Fact(None, "no /proc/meminfo")


def _files_of_cores(affinity: tuple[int, ...]) -> list[str]:
    parts = ("cpu_capacity", "regs/identification/midr_el1")
    return [f"{_CPUS}/cpu{cpu}/{part}" for cpu in affinity for part in parts]


def _system_files(core: int) -> list[str]:
    cache = f"{_CPUS}/cpu{core}/cache"
    return [
        "/proc/cpuinfo", "/proc/meminfo", "/proc/self/cgroup", "/sys/devices/cpu_atom/cpus",
        *(f"{cache}/index{i}/{part}" for i in range(5) for part in ("level", "type", "size")),
        f"{_DMI}/sys_vendor", f"{_DMI}/product_name",
    ]  # fmt: skip


def _capacity(cpu: int, files: Mapping[str, str]) -> int:
    """What Linux's scheduler takes the core to be worth, 1024 at most; 0 if it does not say."""
    text = files.get(f"{_CPUS}/cpu{cpu}/cpu_capacity", "").strip()
    return int(text) if text.isdigit() else 0


def _strongest(affinity: tuple[int, ...], files: Mapping[str, str]) -> int:
    """The first of the usable cores that are worth most: its caches are those that count."""
    return max(affinity, key=lambda cpu: _capacity(cpu, files))


def _cgroup_files(memberships: str) -> list[str]:
    """Where a quota may stand, for the lines of /proc/self/cgroup: the group and all above it."""
    names = []
    for line in memberships.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, parts = "/sys/fs/cgroup", ["cpu.max"]
        elif "cpu" in controllers.split(","):
            root, parts = "/sys/fs/cgroup/cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        inner = PurePosixPath(path.strip("/"))
        for group in (inner, *inner.parents):
            names += [str(PurePosixPath(root, group, part)) for part in parts]
    return names


def _read(name: str) -> str:
    """The file's text, empty if there is none; a long one ends where its last whole paragraph does."""
    try:
        with open(name, encoding="utf-8", errors="replace") as file:
            text = file.read(_LONGEST)
    except OSError:
        return ""
    return text[: text.rfind("\n\n") + 2] if len(text) == _LONGEST else text


def _pair(line: str) -> tuple[str, str]:
    key, _, value = line.partition(":")
    return key.strip(), value.strip()


def _bits(names: Iterable[str], word: int) -> list[str]:
    return [name for bit, name in enumerate(names) if word >> bit & 1]


def _size(text: str) -> int | None:
    text = text.strip()
    unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
    digits = text.rstrip("KMG")
    return int(digits) * unit if digits.isdigit() else None


def _cpu_list(text: str) -> set[int]:
    """`0-3,8` as the set of its numbers."""
    ends = [part.split("-") for part in text.strip().split(",") if part]
    return {cpu for end in ends for cpu in range(int(end[0]), int(end[-1]) + 1)}
