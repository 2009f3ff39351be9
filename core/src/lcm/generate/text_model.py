"""TextModel: a model with its tokenizer, which completes text."""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from lcm import settings
from lcm.backend import dispatch
from lcm.errors import ContextError, UsageError
from lcm.generate.prefixes import Prefixes, prefixes_of
from lcm.generate.sampling import Sampler, Sampling
from lcm.generate.speculation import (
    SPECULATE,
    Drafter,
    DraftModel,
    NGrams,
    Rows,
    Speculation,
    refuse_other_tokens,
)
from lcm.nn import Model
from lcm.text.chat import Chat
from lcm.text.gap import Gap, gap_ids
from lcm.text.tokenizer import Tokenizer

GREEDY = Sampling()
DEFAULT_TOKENS = 128


@dataclass(frozen=True)
class Work:
    """What a text took: how much of the prompt was known, and how many guessed tokens came true."""

    prompt_tokens: int = 0
    reused_tokens: int = 0  # of the prompt: read before, for another text
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True)
class Piece:
    """What one token added: its text, its id, and the log-probabilities of the likeliest, if asked for.

    `text` is empty while a character, or what may become a stop string, is not complete; the last piece has
    no token, but the reason why there are no more: 'stop', 'end' or 'length', and what the text took.
    """

    text: str
    token: int | None = None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    finish: str | None = None
    work: Work | None = None


@dataclass(frozen=True)
class Completion:
    """A finished text, and how fast it came."""

    text: str
    tokens: tuple[int, ...]
    finish: str
    prompt_tokens: int
    prompt_seconds: float
    seconds: float  # for the tokens after the prompt
    pieces: tuple[Piece, ...] = field(repr=False, default=())
    reused_tokens: int = 0  # of the prompt: read before, for another text
    drafted_tokens: int = 0  # guessed
    accepted_tokens: int = 0  # of these, those that came true


class TextModel:
    """A model and its tokenizer.

    With `speculate` 'ngram' it guesses from what is repeated in the text, with 'off' not; empty is as the
    setting says. A `draft` guesses instead: a smaller text model of the same tokens.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, folder: Path | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.folder = folder
        self.speculate = ""
        self.draft: TextModel | None = None
        self._rows: dict[str, Rows] = {}  # by backend

    @cached_property
    def prefixes(self) -> Prefixes:
        """The texts that it has read; none are kept of a model that is in no file, and may yet learn."""
        return prefixes_of(self.model, self.folder)

    @cached_property
    def ends(self) -> frozenset[int]:
        """The tokens that end a text."""
        return self.tokenizer.ends

    def complete(
        self, prompt: str | Gap | Chat, *, max_tokens: int | None = None, sampling: Sampling = GREEDY,
        stop: Sequence[str] = (), logprobs: int = 0,
    ) -> Completion:  # fmt: skip
        """The prompt's continuation, whole; what belongs into the gap; or the answer in the chat."""
        started = time.perf_counter()
        first = 0.0
        pieces = []
        for piece in self.stream(
            prompt, max_tokens=max_tokens, sampling=sampling, stop=stop, logprobs=logprobs
        ):
            first = first or time.perf_counter()
            pieces.append(piece)
        ended = time.perf_counter()
        work = pieces[-1].work or Work()
        return Completion(
            "".join(p.text for p in pieces),
            tuple(p.token for p in pieces if p.token is not None),
            pieces[-1].finish or "",
            work.prompt_tokens,
            first - started,
            ended - first,
            tuple(pieces),
            work.reused_tokens,
            work.drafted_tokens,
            work.accepted_tokens,
        )

    def stream(
        self, prompt: str | Gap | Chat, *, max_tokens: int | None = None, sampling: Sampling = GREEDY,
        stop: Sequence[str] = (), logprobs: int = 0,
    ) -> Generator[Piece]:  # fmt: skip
        """The prompt's continuation as it comes; `ContextError` if it cannot fit the model's context.

        Without `max_tokens` it ends after 128 tokens, or where the context is full; an answer only there, if
        the model does not end it. Of what is around a gap as much is read as fits.
        """
        ids = self.prompt_ids(prompt, max_tokens)
        ends = self._ends(prompt)
        if max_tokens is None:
            room = self.model.context - len(ids)
            max_tokens = max(1, room if isinstance(prompt, Chat) else min(DEFAULT_TOKENS, room))
        self._check(len(ids), max_tokens, stop)
        sampler = Sampler(sampling, ids, logs=logprobs > 0)
        chats = isinstance(prompt, Chat)
        text = self.tokenizer.answer() if chats else self.tokenizer.stream(after=ids)
        held = _Held(stop)
        finish = "length"
        with self.prefixes.reading(ids) as decoder, self._drafting(ids) as drafter:
            reused = decoder.cache.length
            rows, patient = self._rows_here(), self.draft is None  # a draft was asked for
            writer = Speculation(decoder, drafter, rows, ids, patient=patient)
            logits = decoder.prefill(ids[reused:])
            for count in range(1, max_tokens + 1):
                logits = logits[: self.tokenizer.vocabulary]  # models pad theirs
                token, logs = sampler.choose(logits)
                if token in ends:
                    finish = "end"
                    break
                out = held.push(text.push(token))
                yield Piece(out, token, *_logprobs(token, logs, logprobs))
                if held.stopped:
                    finish = "stop"
                    break
                if count < max_tokens:
                    logits = writer.step(token)
        rest = "" if held.stopped else held.push(text.flush()) + held.rest()
        work = Work(len(ids), reused, writer.drafted, writer.accepted)
        yield Piece(rest, finish=finish, work=work)

    @contextmanager
    def _drafting(self, ids: Sequence[int]) -> Iterator[Drafter | None]:
        mode = self.speculate or settings.get("speculate")
        if mode not in SPECULATE:
            raise UsageError(
                f"the setting 'speculate' must be {' or '.join(SPECULATE)}, not {mode!r}"
            )
        if self.draft is None:
            yield NGrams() if mode == "ngram" else None
            return
        refuse_other_tokens(self.tokenizer, self.draft.tokenizer)
        with self.draft.prefixes.reading(ids) as decoder:
            yield DraftModel(decoder, self.tokenizer.vocabulary)

    def _rows_here(self) -> Rows:
        """What is known of rows on the backend that runs products now."""
        product = dispatch.decide("linear", {"rows": 1, "inputs": 1, "outputs": 1})
        return self._rows.setdefault(product.backend, Rows())

    def prompt_ids(self, prompt: str | Gap | Chat, max_tokens: int | None = None) -> list[int]:
        """The prompt's tokens, behind the one that starts a text where the tokenizer has one.

        Those of a gap leave room for `max_tokens`.
        """
        if isinstance(prompt, Chat):
            return prompt.ids(self.tokenizer)
        if isinstance(prompt, Gap):
            return gap_ids(
                self.tokenizer, prompt, self.model.context - (max_tokens or DEFAULT_TOKENS)
            )
        ids = self.tokenizer.encode(prompt)
        start = self.tokenizer.start if self.tokenizer.start is not None else self.tokenizer.end
        if self.tokenizer.start is not None or not ids:
            if start is None:
                raise UsageError(
                    "the prompt is empty, and the tokenizer has no token to start from"
                )
            ids = [start, *ids]
        return ids

    def _ends(self, prompt: str | Gap | Chat) -> frozenset[int]:
        if isinstance(prompt, Gap):
            return frozenset(self.tokenizer.special.values())
        return self.ends | prompt.ends(self.tokenizer) if isinstance(prompt, Chat) else self.ends

    def _check(self, prompt: int, new: int, stop: Sequence[str]) -> None:
        if new < 1:
            raise UsageError(f"max_tokens must be 1 or more, not {new}")
        if "" in stop:
            raise UsageError("a stop string must not be empty")
        if prompt + new > self.model.context:
            raise ContextError(
                f"the prompt's {prompt} tokens and {new} new ones do not fit the model's context of "
                f"{self.model.context}; shorten the prompt or ask for fewer"
            )


class _Held:
    """Holds back text that may turn out to be the beginning of a stop string."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._text = ""
        self.stopped = False

    def push(self, text: str) -> str:
        self._text += text
        places = [self._text.find(s) for s in self._stop]
        found = [p for p in places if p >= 0]
        if found:
            self.stopped = True
            out, self._text = self._text[: min(found)], ""
            return out
        keep = max((self._overlap(s) for s in self._stop), default=0)
        split = len(self._text) - keep
        out, self._text = self._text[:split], self._text[split:]
        return out

    def rest(self) -> str:
        out, self._text = self._text, ""
        return out

    def _overlap(self, stop: str) -> int:
        longest = min(len(stop) - 1, len(self._text))
        return next((n for n in range(longest, 0, -1) if self._text.endswith(stop[:n])), 0)


def _logprobs(
    token: int, logs: np.ndarray | None, count: int
) -> tuple[float | None, tuple[tuple[int, float], ...]]:
    if logs is None:
        return None, ()
    best = np.argsort(-logs, kind="stable")[:count].tolist()
    return float(logs[token]), tuple((i, float(logs[i])) for i in best)
