"""The names of instruction-set features: those of Linux's /proc/cpuinfo, on every system."""

import difflib

from lcm.errors import UsageError


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# An x86 kernel lists much else; what is kept is what a compiler can be told to use, so that a
# record stays the same under the next kernel.
X86_FEATURES = _names(
    """
    mmx sse sse2 pni ssse3 sse4_1 sse4_2 sse4a popcnt cx16 movbe aes pclmulqdq avx avx2 fma fma4
    xop f16c abm bmi1 bmi2 adx sha_ni gfni vaes vpclmulqdq avx_vnni avx_ifma avx_ne_convert
    avx_vnni_int8 avx_vnni_int16 avx512f avx512cd avx512bw avx512dq avx512vl avx512ifma
    avx512vbmi avx512_vbmi2 avx512_vnni avx512_bitalg avx512_vpopcntdq avx512_vp2intersect
    avx512_bf16 avx512_fp16 avx10 amx_tile amx_int8 amx_bf16 amx_fp16 amx_complex
    """
)
# Those whose use ends a process where they are missing: leaf of glibc's cpuid, word (eax is 0), bit.
X86_CPUID = {
    "avx": (0, 2, 28), "f16c": (0, 2, 29), "fma": (0, 2, 12), "avx2": (1, 1, 5),
    "avx512f": (1, 1, 16), "avx512dq": (1, 1, 17), "avx512ifma": (1, 1, 21),
    "avx512cd": (1, 1, 28), "avx512bw": (1, 1, 30), "avx512vl": (1, 1, 31),
    "avx512vbmi": (1, 2, 1), "avx512_vbmi2": (1, 2, 6), "vaes": (1, 2, 9),
    "vpclmulqdq": (1, 2, 10), "avx512_vnni": (1, 2, 11), "avx512_bitalg": (1, 2, 12),
    "avx512_vpopcntdq": (1, 2, 14), "avx512_bf16": (6, 0, 5),
}  # fmt: skip
# Bit by bit, from bit 0 on: <asm/hwcap.h> with the spelling of /proc/cpuinfo.
HWCAP = _names(
    """
    fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma
    lrcpc dcpop sha3 sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca
    pacg gcs cmpbr fprcvt f8mm8 f8mm4 svef16mm sveeltperm sveaes2 svebfscale sve2p2 sme2p2
    smesbitperm smeaes smesfexpa smestmop smesmop4
    """
)
HWCAP2 = _names(
    """
    dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm
    svebf16 i8mm bf16 dgh rng bti mte ecv afp rpres mte3 sme smei16i64 smef64f64 smei8i32
    smef16f32 smeb16f32 smef32f32 smefa64 wfxt ebf16 sveebf16 cssc rprfm sve2p1 sme2 sme2p1
    smei16i32 smebi32i32 smeb16b16 smef16f16 mops hbc sveb16b16 lrcpc3 lse128 fpmr lut faminmax
    f8cvt f8fma f8dp4 f8dp2 f8e4m3 f8e5m2 smelutv2 smef8f16 smef8f32 smesf8fma smesf8dp4
    smesf8dp2 poe
    """
)
# The length of SVE's vectors in this process, in bits: code compiled for one is wrong with another.
SVE_LENGTHS = tuple(f"sve{bits}" for bits in range(128, 2049, 128))
FEATURES = frozenset(X86_FEATURES + HWCAP + HWCAP2 + SVE_LENGTHS)


def parse_mask(text: str) -> frozenset[str]:
    """The features that LCM_ISA_MASK names; `UsageError` on one that no processor has."""
    names = frozenset(text.replace(",", " ").split())
    for name in sorted(names - FEATURES):
        raise UsageError(f"LCM_ISA_MASK: no instruction-set feature {name!r}{near_features(name)}")
    return names


def near_features(name: str) -> str:
    """`; near: …` with the features spelled nearly like this, or nothing."""
    near = difflib.get_close_matches(name.lower(), sorted(FEATURES), n=4, cutoff=0.5)
    return f"; near: {', '.join(near)}" if near else ""
