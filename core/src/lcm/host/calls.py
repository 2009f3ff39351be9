"""The system calls behind the readings; the only file of the host package that imports ctypes."""

from typing import Any


def auxiliary_value(number: int) -> int:
    """`getauxval`: what the Linux kernel told this process at its start; 0 if it said nothing."""
    import ctypes

    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return int(getauxval(number))


def sve_vector_length() -> int:
    """`prctl(PR_SVE_GET_VL)`: bytes in the low 16 bits, negative without SVE."""
    import ctypes

    return int(ctypes.CDLL(None).prctl(51, 0, 0, 0, 0))


def usable_cpuid(leaf: int) -> tuple[int, ...]:
    """The four words of a leaf of glibc's `x86_cpu_active`: what processor and kernel allow.

    Nothing from a C library without it, such as a glibc before 2.33.
    """
    import ctypes

    get = getattr(ctypes.CDLL(None), "__x86_get_cpuid_feature_leaf", None)
    if get is None:
        return ()
    get.restype, get.argtypes = ctypes.POINTER(ctypes.c_uint32 * 8), [ctypes.c_uint]
    return tuple(get(leaf).contents)[4:]


def sysctl(name: str) -> int | str | None:
    """`sysctlbyname` of macOS: a number, a text, or None where there is no such name."""
    import ctypes

    call: Any = ctypes.CDLL(None).sysctlbyname
    size = ctypes.c_size_t(0)
    if call(name.encode(), None, ctypes.byref(size), None, ctypes.c_size_t(0)):
        return None
    buffer = ctypes.create_string_buffer(size.value)
    if call(name.encode(), buffer, ctypes.byref(size), None, ctypes.c_size_t(0)):
        return None
    if name.startswith("machdep."):
        return buffer.value.decode(errors="replace")
    return int.from_bytes(buffer.raw[: size.value], "little")


def windows_feature(number: int) -> bool:
    """`IsProcessorFeaturePresent`."""
    import ctypes

    return bool(getattr(ctypes, "windll").kernel32.IsProcessorFeaturePresent(number))  # noqa: B009


def windows_memory() -> int:
    """`GetPhysicallyInstalledSystemMemory`, in bytes; 0 if the firmware does not say."""
    import ctypes

    kilobytes = ctypes.c_ulonglong(0)
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009
    kernel.GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes))
    return kilobytes.value * 1024
