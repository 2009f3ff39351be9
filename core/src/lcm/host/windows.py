"""What Windows says about a machine: IsProcessorFeaturePresent, and Python's own platform."""

import os
import platform
import sysconfig
from dataclasses import dataclass

from lcm.host import calls
from lcm.host.record import POINTER_BITS, Fact, Host, architecture

# IsProcessorFeaturePresent: number, to the features that it stands for. Windows has no number for
# FMA and F16C, which every processor with AVX2 that was sold has.
WINDOWS_FEATURES = {
    "x86_64": {
        3: "mmx", 6: "sse", 10: "sse2", 13: "pni", 14: "cx16", 36: "ssse3", 37: "sse4_1",
        38: "sse4_2 popcnt", 39: "avx", 40: "avx2 fma f16c", 41: "avx512f", 60: "bmi2",
    },
    "aarch64": {
        19: "fp asimd", 30: "aes pmull sha1 sha2", 31: "crc32", 34: "atomics", 43: "asimddp",
        44: "jscvt", 45: "lrcpc", 46: "sve", 47: "sve2", 52: "svebf16", 57: "svei8mm", 62: "uscat",
        64: "sha3", 65: "sha512", 66: "i8mm", 67: "fphp asimdhp", 68: "bf16", 70: "sme", 71: "sme2",
    },
}  # fmt: skip


@dataclass(frozen=True)
class WindowsReadings:
    """What Windows says: the numbers of the features that are present, and some names."""

    machine: str
    bits: int
    label: str
    present: tuple[int, ...]
    cores: int
    page_size: int
    memory: int

    @classmethod
    def take(cls) -> "WindowsReadings":
        # platform.machine() names the machine, where an emulated Python's own name is what counts
        machine = sysconfig.get_platform().removeprefix("win-")
        numbers = WINDOWS_FEATURES.get(architecture(machine, bits=POINTER_BITS), {})
        present = tuple(number for number in numbers if calls.windows_feature(number))
        label, cores = platform.processor() or machine, os.cpu_count() or 1
        return cls(machine, POINTER_BITS, label, present, cores, 4096, calls.windows_memory())

    def host(self) -> Host:
        arch = architecture(self.machine, bits=self.bits)
        numbers = WINDOWS_FEATURES.get(arch, {})
        names = " ".join(numbers[number] for number in self.present if number in numbers)
        unknown: Fact[int | None] = Fact(None, "not asked of Windows")
        cores = Fact(self.cores, "os.cpu_count")
        return Host(
            os=Fact("windows", "sys.platform"),
            arch=Fact(arch, "sysconfig.get_platform"),
            label=Fact(self.label, "platform.processor"),
            features=Fact(frozenset(names.split()), "IsProcessorFeaturePresent"),
            vector_bits=unknown,
            l1d=unknown,
            l2=unknown,
            l3=unknown,
            cores=cores,
            performance_cores=cores,
            efficiency_cores=Fact(0, "not asked of Windows"),
            quota=Fact(None, "Windows has no cgroups"),
            page_size=Fact(self.page_size, "Windows on x86 and Arm"),
            memory=Fact(self.memory or None, "GetPhysicallyInstalledSystemMemory"),
            rosetta=Fact(False, "not macOS"),
        )
