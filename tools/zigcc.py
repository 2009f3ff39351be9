"""The C compiler for a machine that is not here: zig's, called as gcc is called.

    CC="python -I tools/zigcc.py aarch64-linux-gnu.2.17"

The first argument is zig's name of the machine, the others are gcc's. Needs the package ziglang.
"""

import os
import re
import sys
from pathlib import Path

# Both have these options, but zig means by both what -mcpu means: the last of them, and not the others.
TUNE = "-mtune="
MARCH = re.compile(r"-march=armv(\d)(?:\.(\d))?-a((?:\+\w+)*)")
FEATURES = {"fp16": "fullfp16"}  # where zig's name of an extension is another than gcc's


def arguments(target: str, given: list[str]) -> list[str]:
    """What zig is to be told. It would put in symbols for a debugger, ten times as large as the code."""
    return ["cc", "-target", target, "-s", *(word for one in given for word in option(one))]


def option(given: str) -> list[str]:
    """An option as zig has it: the level of an architecture is a feature, tuning is the compiler's alone."""
    if given.startswith(TUNE):
        return ["-Xclang", "-tune-cpu", "-Xclang", given.removeprefix(TUNE)]
    if not (found := MARCH.fullmatch(given)):
        return [given]
    version, step, extensions = found.groups()
    level = f"v{version}_{step}a" if step else f"v{version}a"
    names = [FEATURES.get(name, name) for name in extensions.split("+")[1:]]
    return ["+".join(["-mcpu=generic", level, *names])]


def main(target: str, *given: str) -> None:
    """Become zig, or say what it compiles for."""
    if given == ("-dumpmachine",):
        print(re.sub(r"\.[\d.]+$", "", target))
        return
    import ziglang  # here: its place is all that is asked of it

    zig = Path(ziglang.__file__).with_name("zig")
    os.execv(zig, [str(zig), *arguments(target, list(given))])


if __name__ == "__main__":
    main(*sys.argv[1:])
