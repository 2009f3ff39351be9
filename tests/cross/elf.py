"""A shared library of Linux: what it exports, what it needs, and what is in its code."""

import struct

MACHINES = {62: "x86_64", 183: "aarch64"}


class Elf:
    """One with 64 bits, as far as it is looked at here; from a path, or its bytes."""

    TABLE, DYNAMIC, SYMBOLS = 0, 6, 11  # kinds of sections
    NEEDED, INIT_ARRAY_SIZE = 1, 27  # kinds of entries in the dynamic section
    EXECUTABLE = 4  # a section's flag

    def __init__(self, found):
        self._bytes = found if isinstance(found, bytes) else found.read_bytes()
        assert self._bytes[:6] == b"\x7fELF\x02\x01"
        (offset,) = struct.unpack_from("<Q", self._bytes, 40)
        size, count = struct.unpack_from("<2H", self._bytes, 58)
        self._sections = [
            struct.unpack_from("<2I4Q2I2Q", self._bytes, offset + i * size) for i in range(count)
        ]

    def machine(self):
        return MACHINES[struct.unpack_from("<H", self._bytes, 18)[0]]

    def code(self):
        """The bytes of every section that can be run."""
        return b"".join(
            self._bytes[offset : offset + size]
            for _, _, flags, _, offset, size, *_ in self._sections
            if flags & self.EXECUTABLE
        )

    def exports(self):
        rows, texts = self._rows(self.SYMBOLS, "<I2BH2Q")
        return {self._text(texts + name) for name, _, _, section, _, _ in rows if name and section}

    def needs(self):
        rows, texts = self._rows(self.DYNAMIC, "<2Q")
        return {self._text(texts + value) for kind, value in rows if kind == self.NEEDED}

    def constructors(self):
        rows, _ = self._rows(self.DYNAMIC, "<2Q")
        return sum(value // 8 for kind, value in rows if kind == self.INIT_ARRAY_SIZE)

    def _rows(self, kind, form):
        """The rows of the section of this kind, and the offset of its texts."""
        _, _, _, _, offset, size, texts, *_ = next(s for s in self._sections if s[1] == kind)
        rows = struct.iter_unpack(form, self._bytes[offset : offset + size])
        return rows, self._sections[texts][4]

    def _text(self, at):
        return self._bytes[at : self._bytes.index(0, at)].decode()
