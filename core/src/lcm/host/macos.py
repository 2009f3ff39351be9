"""What macOS says about a machine: sysctl, with Apple's names turned into those of Linux."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass

from lcm.host import calls
from lcm.host.features import X86_FEATURES
from lcm.host.record import POINTER_BITS, Fact, Host, architecture

# hw.optional.arm.…, to the same features under their names in Linux.
APPLE_FEATURES = {
    "FEAT_AES": "aes", "FEAT_PMULL": "pmull", "FEAT_SHA1": "sha1", "FEAT_SHA256": "sha2",
    "FEAT_SHA512": "sha512", "FEAT_SHA3": "sha3", "FEAT_CRC32": "crc32", "FEAT_LSE": "atomics",
    "FEAT_LSE2": "uscat", "FEAT_RDM": "asimdrdm", "FEAT_FP16": "fphp asimdhp",
    "FEAT_DotProd": "asimddp", "FEAT_FHM": "asimdfhm", "FEAT_FCMA": "fcma", "FEAT_JSCVT": "jscvt",
    "FEAT_LRCPC": "lrcpc", "FEAT_LRCPC2": "ilrcpc", "FEAT_DPB": "dcpop", "FEAT_DPB2": "dcpodp",
    "FEAT_DIT": "dit", "FEAT_FlagM": "flagm", "FEAT_FlagM2": "flagm2", "FEAT_FRINTTS": "frint",
    "FEAT_SB": "sb", "FEAT_SSBS": "ssbs", "FEAT_PAuth": "paca pacg", "FEAT_BTI": "bti",
    "FEAT_ECV": "ecv", "FEAT_AFP": "afp", "FEAT_RPRES": "rpres", "FEAT_WFxT": "wfxt",
    "FEAT_CSSC": "cssc", "FEAT_HBC": "hbc", "FEAT_BF16": "bf16", "FEAT_EBF16": "ebf16",
    "FEAT_I8MM": "i8mm", "FEAT_SME": "sme", "FEAT_SME2": "sme2", "FEAT_SME_F64F64": "smef64f64",
    "FEAT_SME_I16I64": "smei16i64", "SME_F32F32": "smef32f32", "SME_F16F32": "smef16f32",
    "SME_B16F32": "smeb16f32", "SME_I8I32": "smei8i32", "SME_I16I32": "smei16i32",
    "SME_BI32I32": "smebi32i32",
}  # fmt: skip
# machdep.cpu.features and leaf7_features, where lower case alone does not give Linux's name.
MAC_X86_NAMES = {
    "sse3": "pni", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "avx1.0": "avx", "lzcnt": "abm",
    "sha": "sha_ni", "avx512vnni": "avx512_vnni", "avx512vbmi2": "avx512_vbmi2",
    "avx512bitalg": "avx512_bitalg", "avx512vpopcntdq": "avx512_vpopcntdq",
}  # fmt: skip


_OTHERS = (
    "machdep.cpu.brand_string",
    "machdep.cpu.features",
    "machdep.cpu.leaf7_features",
    "sysctl.proc_translated",
    "hw.activecpu",
    "hw.memsize",
    "hw.l1dcachesize",
    "hw.l2cachesize",
    "hw.l3cachesize",
    "hw.perflevel0.logicalcpu",
    "hw.perflevel0.l1dcachesize",
    "hw.perflevel0.l2cachesize",
    "hw.perflevel0.l3cachesize",
    "hw.perflevel1.logicalcpu",
)


@dataclass(frozen=True)
class MacReadings:
    """What macOS says: the values of sysctl that exist, by name."""

    machine: str
    bits: int
    page_size: int
    sysctl: Mapping[str, int | str]

    @classmethod
    def take(cls) -> "MacReadings":
        names = [*_OTHERS, *(f"hw.optional.arm.{name}" for name in APPLE_FEATURES)]
        values = {name: value for name in names if (value := calls.sysctl(name)) is not None}
        page_size = os.sysconf("SC_PAGE_SIZE")
        return cls(platform.machine(), POINTER_BITS, page_size, values)

    def host(self) -> Host:
        arch = architecture(self.machine, bits=self.bits)
        brand = "machdep.cpu.brand_string"
        cores = self._number("hw.activecpu")
        rosetta = self._number("sysctl.proc_translated")
        few = self._number("hw.perflevel1.logicalcpu")
        many = self._number("hw.perflevel0.logicalcpu")
        return Host(
            os=Fact("macos", "sys.platform"),
            arch=Fact(arch, "uname"),
            label=Fact(str(self.sysctl.get(brand, "Mac")), f"sysctl {brand}"),
            features=self._features(arch),
            vector_bits=Fact(None, "macOS has no SVE"),
            l1d=self._first("hw.perflevel0.l1dcachesize", "hw.l1dcachesize"),
            l2=self._first("hw.perflevel0.l2cachesize", "hw.l2cachesize"),
            l3=self._first("hw.perflevel0.l3cachesize", "hw.l3cachesize"),
            cores=Fact(cores.value or 1, cores.source),
            performance_cores=many if many.value else Fact(cores.value or 1, cores.source),
            efficiency_cores=few,
            quota=Fact(None, "macOS has no cgroups"),
            page_size=Fact(self.page_size, "sysconf(SC_PAGE_SIZE)"),
            memory=self._first("hw.memsize"),
            rosetta=Fact(rosetta.value == 1, rosetta.source),
        )

    def _features(self, arch: str) -> Fact[frozenset[str]]:
        if arch == "aarch64":
            present = [
                linux
                for name, linux in APPLE_FEATURES.items()
                if self.sysctl.get(f"hw.optional.arm.{name}") == 1
            ]
            names = {"fp", "asimd", *" ".join(present).split()}  # every Mac with Arm has these two
            return Fact(frozenset(names), "sysctl hw.optional.arm")
        lists = ("machdep.cpu.features", "machdep.cpu.leaf7_features")
        said = " ".join(str(self.sysctl.get(name, "")) for name in lists).lower().split()
        names = {MAC_X86_NAMES.get(name, name) for name in said}
        return Fact(
            frozenset(names).intersection(X86_FEATURES), f"sysctl {lists[0]} and leaf7_features"
        )

    def _number(self, name: str) -> Fact[int]:
        value = self.sysctl.get(name, 0)
        return Fact(value if isinstance(value, int) else 0, f"sysctl {name}")

    def _first(self, *names: str) -> Fact[int | None]:
        for name in names:
            if number := self._number(name).value:
                return Fact(number, f"sysctl {name}")
        return Fact(None, f"sysctl has no {' or '.join(names)}")
