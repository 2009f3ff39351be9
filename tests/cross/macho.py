"""A shared library of macOS: its exports, its needs, its system, and whether its signature fits."""

import hashlib
import struct


class MachO:
    """One with 64 bits for arm64, as far as it is looked at here."""

    SYMTAB, LOAD_DYLIB, CODE_SIGNATURE, SEGMENT, BUILD_VERSION = 0x2, 0xC, 0x1D, 0x19, 0x32
    REEXPORTED, WEAK, UPWARD = 0x8000001F, 0x80000018, 0x80000023  # needed too
    CONSTRUCTORS = (0x9, 0x16)  # kinds of sections: pointers to them, offsets of them
    CODE_DIRECTORY, ADHOC = 0xFADE0C02, 0x2

    def __init__(self, found):
        self._bytes = found
        magic, cpu, _, kind, count = struct.unpack_from("<5I", found)
        assert (magic, cpu, kind) == (0xFEEDFACF, 0x0100000C, 6), "64 bits, arm64, a library"
        self._commands, at = [], 32
        for _ in range(count):
            command, size = struct.unpack_from("<2I", found, at)
            self._commands.append((command, at))
            at += size

    def needs(self):
        kinds = (self.LOAD_DYLIB, self.REEXPORTED, self.WEAK, self.UPWARD)
        return {self._text(at + self._word(at + 8)) for kind in kinds for at in self._all(kind)}

    def oldest(self):
        """The platform, 1 for macOS, and the oldest version of it."""
        (at,) = self._all(self.BUILD_VERSION)
        version = self._word(at + 12)
        return self._word(at + 8), f"{version >> 16}.{version >> 8 & 255}"

    def exports(self):
        """Without the underscore in front that C's names have."""
        (at,) = self._all(self.SYMTAB)
        symbols, count, texts, _ = struct.unpack_from("<4I", self._bytes, at + 8)
        rows = struct.iter_unpack("<I2BHQ", self._bytes[symbols : symbols + 16 * count])
        # External, defined in some section, and no symbol for debuggers or private to the library.
        defined = (name for name, kind, *_ in rows if kind & 0xF1 == 1 and kind & 0x0E == 0x0E)
        return {self._text(texts + name).removeprefix("_") for name in defined}

    def constructors(self):
        return sum(size for kind, size in self._sections() if kind & 0xFF in self.CONSTRUCTORS)

    def signed_ad_hoc(self):
        """Whether the signature has no signer, and its hash of each page is that of what is there."""
        (at,) = self._all(self.CODE_SIGNATURE)
        start = self._word(at + 8)
        _, _, count = struct.unpack_from(">3I", self._bytes, start)
        places = (struct.unpack_from(">2I", self._bytes, start + 12 + 8 * i)[1] for i in range(count))
        directory = next(start + p for p in places if self._big(start + p) == self.CODE_DIRECTORY)
        _, _, _, flags, hashes, _, _, pages, limit = struct.unpack_from(">9I", self._bytes, directory)
        width, kind, _, shift = struct.unpack_from("4B", self._bytes, directory + 36)
        assert (width, kind) == (32, 2), "SHA-256"
        for i in range(pages):
            page = self._bytes[i << shift : min((i + 1) << shift, limit)]
            place = directory + hashes + width * i
            if hashlib.sha256(page).digest() != self._bytes[place : place + width]:
                return False
        return bool(flags & self.ADHOC) and pages > 0

    def _sections(self):
        """The flags and the size of each section."""
        for at in self._all(self.SEGMENT):
            for i in range(self._word(at + 64)):
                section = at + 72 + 80 * i
                yield self._word(section + 64), struct.unpack_from("<Q", self._bytes, section + 40)[0]

    def _all(self, kind):
        return [at for command, at in self._commands if command == kind]

    def _word(self, at):
        return struct.unpack_from("<I", self._bytes, at)[0]

    def _big(self, at):
        return struct.unpack_from(">I", self._bytes, at)[0]

    def _text(self, at):
        return self._bytes[at : self._bytes.index(0, at)].decode()
