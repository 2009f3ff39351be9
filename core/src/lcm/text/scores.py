"""The merges of a SentencePiece vocabulary, which it does not list: they follow from its scores.

SentencePiece joins the two neighbours whose text together is the piece with the best score, of equal
ones the first in the text. A tokenizer.json lists the pairs instead, the best first.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

Merge = tuple[str, str]


def merges_of(scores: Mapping[str, float]) -> list[Merge]:
    """Every way to make each piece from two others, the best first; `scores` are in order of ids.

    Of pieces with equal scores those with the longer left part come first: so a run of blanks grows
    from its left, as it does where the first in the text is taken.
    """
    found: list[Merge] = []
    for _, pieces in groupby(sorted(scores, key=lambda p: -scores[p]), key=scores.__getitem__):
        pairs = [
            (left, right)
            for piece in pieces
            for cut in range(1, len(piece))
            if (left := piece[:cut]) in scores and (right := piece[cut:]) in scores
        ]
        found += sorted(pairs, key=lambda pair: (-len(pair[0]), -len(pair[1])))
    return found


def ranks_of(merges: Sequence[Merge]) -> dict[str, int]:
    """Each piece that some merge makes, and its place among them: the best is 0."""
    return {piece: rank for rank, piece in enumerate(dict.fromkeys(a + b for a, b in merges))}
