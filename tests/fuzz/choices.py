"""What a fuzzer decides, read from its bytes: numbers, one of several things, and damage to what is there."""

EXTREMES = (0, 1, 7, 8, 31, 33, 127, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**60,
            2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 8, 2**64 - 1)  # fmt: skip
NAMES = ("", "x", "\0", "a\nb", "\x1b[31mred", "../x", "/etc/passwd", "\u202egnp", "x" * 300, "\ud800",
         "token_embd.weight", "__metadata__", "general.alignment")  # fmt: skip


class Choices:
    """Decisions; when its bytes are used up, each is the first one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, count: int) -> int:
        """0 to count - 1."""
        size = max(1, (count - 1).bit_length() + 7 >> 3)
        piece = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(piece, "little") % count

    def of(self, things):
        """One of them."""
        things = list(things)
        return things[self.below(len(things))]

    def size(self) -> int:
        """A number that a size, count or place could be, by far or by one."""
        return max(0, self.of(EXTREMES) + self.of((0, 0, 1, -1, 32)))

    def anything(self):
        """A value of JSON."""
        return self.of((self.size(), -self.size(), None, True, 0.5, 1e300, float("inf"), float("nan"), -1, 0,
                        10**400, "", self.of(NAMES), [], [1], [[1]], {}, {"a": 1}, [0, 2**62, 2**62],
                        ["full_attention"]))  # fmt: skip

    def raw(self, whole: bytes) -> bytes:
        """These bytes with up to three places changed, moved, doubled or cut out."""
        blob = bytearray(whole)
        for _ in range(self.below(4)):
            at = self.below(len(blob) + 1)
            to = min(at + self.below(40), len(blob))
            width = self.of((1, 4, 8))
            number = (self.size() % 256**width).to_bytes(width, "little")
            match self.below(5):
                case 0:
                    blob[at : at + width] = number
                case 1:
                    blob[at:at] = number
                case 2:
                    blob[at:at] = blob[at:to]
                case 3:
                    del blob[at:to]
                case 4:
                    del blob[at:]
        return bytes(blob)
