"""The formats in which keys and values may be kept, and the one that is set."""

from lcm import settings
from lcm.errors import UsageError
from lcm.formats import FORMATS

CACHED = ("f32", "f16", "q8_0")


def cache_format(width: int) -> str:
    """The setting of this name; `UsageError` if there is no such format, or not for heads of this width."""
    name = settings.get("cache_format")
    if name not in CACHED:
        raise UsageError(f"the setting 'cache_format' must be f32, f16 or q8_0, not {name!r}")
    if width % (block := FORMATS[name].numbers):
        raise UsageError(
            f"the setting 'cache_format' is {name}, which is for whole blocks of {block} numbers, but the "
            f"model's heads are {width} wide; f16 takes any"
        )
    return name
