"""Speculation: guess some tokens, let the model read them at once, and keep those that it chooses itself.

Leviathan et al., 2023. Here every token is chosen from the model's own logits, in order, so that texts are
the ones that come without guessing, greedy or drawn, provided that those logits are: a number of rows is
used only after each of its rows once had the very bits of a step (see `Rows`).
"""

import time
import warnings
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lcm.errors import LcmWarning, UsageError
from lcm.generate.decoder import Decoder, shared
from lcm.text.tokenizer import Tokenizer

SPECULATE = ("ngram", "off")  # what the setting of this name may be
SIZES = (4, 16)  # rows that the model reads at once: a token, and guesses of the next ones
LONGEST_PAUSE = 64  # tokens


class Drafter(Protocol):
    """Guesses how a text goes on; one for each text."""

    def propose(self, text: Sequence[int], most: int) -> Sequence[int]:
        """The next tokens, `most` of them or fewer; the text only grows from call to call."""


class NGrams:
    """Guesses what followed when the text's last few tokens were last there (Saxena, 2023)."""

    LENGTHS = (4, 3, 2)

    def __init__(self) -> None:
        self._followed: dict[tuple[int, ...], int] = {}  # by what: where
        self._read = 0

    def propose(self, text: Sequence[int], most: int) -> Sequence[int]:
        for place in range(self._read, len(text)):
            for length in self.LENGTHS:
                if length <= place:
                    self._followed[tuple(text[place - length : place])] = place
        self._read = len(text)
        places = (self._followed.get(tuple(text[-length:])) for length in self.LENGTHS)
        place = next((p for p in places if p is not None), len(text))
        period = len(text) - place  # what would follow the text's end is the guess itself
        return [text[place + i % period] for i in range(most)] if period else []


class DraftModel:
    """Guesses what a smaller model would write."""

    def __init__(self, decoder: Decoder, vocabulary: int) -> None:
        self._decoder, self._vocabulary = decoder, vocabulary

    def propose(self, text: Sequence[int], most: int) -> Sequence[int]:
        """Nothing where the smaller model's context has no room."""
        decoder = self._decoder
        if len(text) > decoder.model.context:
            return []
        common = min(shared(decoder.tokens, text), len(text) - 1)
        decoder.cache.rewind(common if decoder.cache.suits(len(text)) else 0)
        logits = decoder.prefill(text[decoder.cache.length :])
        guesses = [self._likeliest(logits)]
        for _ in range(min(most - 1, decoder.cache.room)):
            guesses.append(self._likeliest(decoder.step(guesses[-1])))
        return guesses

    def _likeliest(self, logits: np.ndarray) -> int:
        return int(np.argmax(logits[: self._vocabulary]))


class Rows:
    """Which numbers of rows give each row the bits of a step, as far as it was tried."""

    def __init__(self) -> None:
        self._same: dict[int, bool] = {}

    def may_be_used(self, size: int) -> bool:
        """Unless this number, or a smaller one, gave other bits."""
        return all(same for tried, same in self._same.items() if tried <= size)

    def are_sure(self, size: int) -> bool:
        return self._same.get(size, False)

    def learn(self, size: int, same: bool) -> None:
        self._same[size] = same


class Speculation:
    """A decoder that guesses: each `step` is what the decoder's own would be, but often there already.

    A program for several rows takes time to make. It is made when guesses have come true so often that rows
    would have saved more than that, or at once for who is not `patient`.
    """

    def __init__(
        self, decoder: Decoder, drafter: Drafter | None, rows: Rows, prompt: Sequence[int],
        *, patient: bool = True,
    ) -> None:  # fmt: skip
        self._decoder, self._drafter, self._rows = decoder, drafter, rows
        self._text = list(prompt)
        self._guesses: Sequence[int] = ()
        self._place = 0  # guesses that have come true
        self._logits: np.ndarray | None = None  # before the first guess, and after each
        self._trial = False  # whether steps, too, are made, to compare
        self._size, self._pause, self._wait = SIZES[0], 0, 0
        self._patient, self._credit = patient, 0.0  # seconds that guesses saved, or would have
        self._seconds = 0.0  # of a step
        self.drafted = self.accepted = 0

    def step(self, token: int) -> np.ndarray:
        """Take in one more token; the logits (vocabulary,) of what comes after it."""
        self._text.append(token)
        if self._place < len(self._guesses) and token == self._guesses[self._place]:
            self._place += 1
            self._credit += self._seconds
            self.accepted += self._logits is not None
        else:
            self._learn_pace()
            self._decoder.cache.rewind(len(self._text) - 1)
            self._guesses, self._place = self._guess(), 0
            self._read(token)
        return self._next()

    def _read(self, token: int) -> None:
        """Run the token and the guesses, or as many of them as there are rows that pay."""
        size = max((s for s in SIZES if s <= len(self._guesses) + 1 and self._pays(s)), default=0)
        self._logits = None
        if not size:
            return
        if self._patient and not self._decoder.has_program(size):
            self._credit -= self._price(size)
        self._guesses = self._guesses[: size - 1]
        self.drafted += len(self._guesses)
        self._logits = self._decoder.steps([token, *self._guesses])
        self._trial = not self._rows.are_sure(size)
        if self._trial:
            self._logits = self._logits.copy()
            self._decoder.cache.rewind(len(self._text) - 1)

    def _next(self) -> np.ndarray:
        """The logits after the text: a row that is there, or else a step's."""
        if self._logits is None:
            return self._step()
        found: np.ndarray = self._logits[self._place]
        return self._compared(found) if self._trial else found

    def _compared(self, found: np.ndarray) -> np.ndarray:
        wanted = self._step()
        if not np.array_equal(found, wanted):
            self._refuse_rows()
            self._guesses, self._place, self._logits = (), 0, None
        elif self._place == len(self._guesses):
            self._rows.learn(len(self._guesses) + 1, same=True)
        return wanted

    def _refuse_rows(self) -> None:
        self._rows.learn(len(self._guesses) + 1, same=False)
        if not self._patient and not self._rows.may_be_used(SIZES[0]):
            warnings.warn(
                LcmWarning("the draft model is not used: with the kernels that run here, several tokens at "
                           "once have other last digits than one by one"),
                stacklevel=2,
            )  # fmt: skip

    def _step(self) -> np.ndarray:
        replays, started = self._decoder.has_program(1), time.perf_counter()
        logits = self._decoder.step(self._text[-1])
        if replays:
            self._seconds = time.perf_counter() - started
        return logits

    def _guess(self) -> Sequence[int]:
        """As many guesses as fill the rows, or none."""
        if self._drafter is None or self._wait:
            self._wait = max(0, self._wait - 1)
            return ()
        most = min(self._size, self._decoder.cache.room)
        sizes = [s for s in SIZES if s <= most and self._rows.may_be_used(s)]
        guesses = self._drafter.propose(self._text, sizes[-1] - 1) if sizes else ()
        return guesses[: max((s - 1 for s in sizes if s - 1 <= len(guesses)), default=0)]

    def _pays(self, size: int) -> bool:
        known = not self._patient or self._decoder.has_program(size)
        return known or self._credit >= self._price(size)

    def _price(self, size: int) -> float:
        """Seconds that making a program for so many rows may take: about twice as long for 4 as for one."""
        return (1 + size / 4) * self._decoder.recording_seconds

    def _learn_pace(self) -> None:
        """Many guesses where at least half came true; where none did, for a while none."""
        if not self._guesses:
            return
        self._size = SIZES[-1] if 2 * self._place >= len(self._guesses) else SIZES[0]
        self._pause = 0 if self._place else min(LONGEST_PAUSE, 2 * self._pause or 1)
        self._wait = self._pause


def refuse_other_tokens(tokenizer: Tokenizer, draft: Tokenizer) -> None:
    """`UsageError` for a draft model whose ids mean something else."""
    if tokenizer.fingerprint() == draft.fingerprint():
        return
    count, theirs = tokenizer.vocabulary, draft.vocabulary
    if count != theirs:
        raise UsageError(
            f"the draft model has {theirs} tokens, and the model has {count}; take one of its family"
        )
    for id in range(count):
        ours, its = tokenizer.bytes_of(id), draft.bytes_of(id)
        if ours != its:
            raise UsageError(
                f"token {id} is {ours!r} to the model, and {its!r} to the draft model; take one of its family"
            )
