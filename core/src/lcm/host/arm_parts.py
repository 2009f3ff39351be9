"""What Arm processors are called, by implementer and part number: labels, never a reason to do anything.

The numbers are those of Linux's `arch/arm64/include/asm/cputype.h` and of util-linux's `lscpu-arm.c`.
"""

import re
from collections.abc import Iterable

# (implementer, part): the core, and the chips that have it, where few have.
PARTS = {
    (0x41, 0xD03): ("Cortex-A53", ""),
    (0x41, 0xD04): ("Cortex-A35", ""),
    (0x41, 0xD05): ("Cortex-A55", ""),
    (0x41, 0xD07): ("Cortex-A57", ""),
    (0x41, 0xD08): ("Cortex-A72", ""),
    (0x41, 0xD09): ("Cortex-A73", ""),
    (0x41, 0xD0A): ("Cortex-A75", ""),
    (0x41, 0xD0B): ("Cortex-A76", ""),
    (0x41, 0xD0C): ("Neoverse N1", "Graviton2 or Altra"),
    (0x41, 0xD0D): ("Cortex-A77", ""),
    (0x41, 0xD0E): ("Cortex-A76AE", ""),
    (0x41, 0xD40): ("Neoverse V1", "Graviton3 or 3E"),
    (0x41, 0xD41): ("Cortex-A78", ""),
    (0x41, 0xD42): ("Cortex-A78AE", ""),
    (0x41, 0xD44): ("Cortex-X1", ""),
    (0x41, 0xD46): ("Cortex-A510", ""),
    (0x41, 0xD47): ("Cortex-A710", ""),
    (0x41, 0xD48): ("Cortex-X2", ""),
    (0x41, 0xD49): ("Neoverse N2", ""),
    (0x41, 0xD4A): ("Neoverse E1", ""),
    (0x41, 0xD4B): ("Cortex-A78C", ""),
    (0x41, 0xD4C): ("Cortex-X1C", ""),
    (0x41, 0xD4D): ("Cortex-A715", ""),
    (0x41, 0xD4E): ("Cortex-X3", ""),
    (0x41, 0xD4F): ("Neoverse V2", "Graviton4, Grace or Axion"),
    (0x41, 0xD80): ("Cortex-A520", ""),
    (0x41, 0xD81): ("Cortex-A720", ""),
    (0x41, 0xD82): ("Cortex-X4", ""),
    (0x41, 0xD83): ("Neoverse V3AE", ""),
    (0x41, 0xD84): ("Neoverse V3", ""),
    (0x41, 0xD85): ("Cortex-X925", ""),
    (0x41, 0xD87): ("Cortex-A725", ""),
    (0x41, 0xD8E): ("Neoverse N3", ""),
    (0x46, 0x001): ("A64FX", ""),
    (0x48, 0xD01): ("TSV110", "Kunpeng 920"),
    (0x4E, 0x004): ("Carmel", "Xavier"),
    (0x51, 0x001): ("Oryon", "Snapdragon X"),
    (0x61, 0x000): ("Apple silicon", "seen from a virtual machine"),
    (0x61, 0x022): ("Icestorm", "Apple M1"),
    (0x61, 0x023): ("Firestorm", "Apple M1"),
    (0x61, 0x024): ("Icestorm", "Apple M1 Pro"),
    (0x61, 0x025): ("Firestorm", "Apple M1 Pro"),
    (0x61, 0x028): ("Icestorm", "Apple M1 Max"),
    (0x61, 0x029): ("Firestorm", "Apple M1 Max"),
    (0x61, 0x032): ("Blizzard", "Apple M2"),
    (0x61, 0x033): ("Avalanche", "Apple M2"),
    (0x61, 0x034): ("Blizzard", "Apple M2 Pro"),
    (0x61, 0x035): ("Avalanche", "Apple M2 Pro"),
    (0x61, 0x038): ("Blizzard", "Apple M2 Max"),
    (0x61, 0x039): ("Avalanche", "Apple M2 Max"),
    (0x6D, 0xD49): ("Neoverse N2", "Cobalt 100"),
    (0xC0, 0xAC3): ("Ampere1", "AmpereOne"),
    (0xC0, 0xAC4): ("Ampere1A", "AmpereOne"),
}
# On Amazon EC2 a core is in one chip only, but for that of Graviton3, which the instance tells.
ON_EC2 = {
    "Cortex-A72": "Graviton1",
    "Neoverse N1": "Graviton2",
    "Neoverse V1": "Graviton3",
    "Neoverse V2": "Graviton4",
    "Neoverse V3": "Graviton5",
}
WITH_GRAVITON_3E = ("c7gn", "hpc7g")
GRAVITON_INSTANCE = re.compile(r"(a1|[a-z]+\d+g[a-z]*)\.")


def label(parts: Iterable[tuple[int, int]], *, vendor: str, product: str) -> str:
    """What these cores are called, each kind once, with their chip.

    The vendor and the product are those of the machine, by its firmware; they may tell the chip.
    """
    kinds = [_core_and_chip(*part, vendor, product) for part in dict.fromkeys(parts)]
    if len({chip for _, chip in kinds}) == 1:
        kinds = [(" + ".join(core for core, _ in kinds), kinds[0][1])]
    return " + ".join(f"{core} ({chip})" if chip else core for core, chip in kinds)


def _core_and_chip(implementer: int, part: int, vendor: str, product: str) -> tuple[str, str]:
    unknown = f"Arm part {implementer:#04x}:{part:#05x}", ""
    core, chip = PARTS.get((implementer, part), unknown)
    instance = GRAVITON_INSTANCE.match(product)
    if vendor == "Amazon EC2" and instance:
        chip = ON_EC2.get(core, chip)
        if core == "Neoverse V1" and instance[1] in WITH_GRAVITON_3E:
            chip = "Graviton3E"
    return core, chip


def of_midr(text: str) -> tuple[int, int] | None:
    """Implementer and part in the text of a `midr_el1` file, or None where there is no number."""
    try:
        number = int(text, 16)
    except ValueError:
        return None
    return number >> 24 & 0xFF, number >> 4 & 0xFFF
