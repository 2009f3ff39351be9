"""TextModel: a model with its tokenizer, which completes text."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from lcm.errors import ContextError, UsageError
from lcm.generate.decoder import Decoder
from lcm.generate.sampling import Sampler, Sampling
from lcm.nn import Model
from lcm.text.gap import Gap, gap_ids
from lcm.text.tokenizer import Tokenizer

GREEDY = Sampling()
DEFAULT_TOKENS = 128


@dataclass(frozen=True)
class Piece:
    """What one token added: its text, its id, and the log-probabilities of the likeliest, if asked for.

    `text` is empty while a character, or what may become a stop string, is not complete; the last piece has
    no token, but the reason why there are no more: 'stop', 'end' or 'length'.
    """

    text: str
    token: int | None = None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    finish: str | None = None


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


class TextModel:
    """A model and its tokenizer."""

    def __init__(self, model: Model, tokenizer: Tokenizer, folder: Path | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.folder = folder

    @cached_property
    def ends(self) -> frozenset[int]:
        """The tokens that end a text."""
        return frozenset() if self.tokenizer.end is None else frozenset([self.tokenizer.end])

    def complete(
        self, prompt: str | Gap, *, max_tokens: int | None = None, sampling: Sampling = GREEDY,
        stop: Sequence[str] = (), logprobs: int = 0,
    ) -> Completion:  # fmt: skip
        """The prompt's continuation, whole; or what belongs into the gap."""
        started = time.perf_counter()
        first = 0.0
        pieces = []
        for piece in self.stream(
            prompt, max_tokens=max_tokens, sampling=sampling, stop=stop, logprobs=logprobs
        ):
            first = first or time.perf_counter()
            pieces.append(piece)
        ended = time.perf_counter()
        return Completion(
            "".join(p.text for p in pieces),
            tuple(p.token for p in pieces if p.token is not None),
            pieces[-1].finish or "",
            len(self.prompt_ids(prompt, max_tokens)),
            first - started,
            ended - first,
            tuple(pieces),
        )

    def stream(
        self, prompt: str | Gap, *, max_tokens: int | None = None, sampling: Sampling = GREEDY,
        stop: Sequence[str] = (), logprobs: int = 0,
    ) -> Iterator[Piece]:  # fmt: skip
        """The prompt's continuation as it comes; `ContextError` if it cannot fit the model's context.

        Without `max_tokens` it ends after 128 tokens, or where the context is full. Of what is around a
        gap as much is read as fits.
        """
        ids = self.prompt_ids(prompt, max_tokens)
        ends = self.ends if isinstance(prompt, str) else frozenset(self.tokenizer.special.values())
        if max_tokens is None:
            max_tokens = max(1, min(DEFAULT_TOKENS, self.model.context - len(ids)))
        self._check(len(ids), max_tokens, stop)
        decoder, sampler = Decoder(self.model), Sampler(sampling, ids)
        text = self.tokenizer.stream(after=ids)
        held = _Held(stop)
        logits = decoder.prefill(ids)
        finish = "length"
        for count in range(1, max_tokens + 1):
            token, logs = sampler.choose(logits[: self.tokenizer.vocabulary])  # models pad theirs
            if token in ends:
                finish = "end"
                break
            out = held.push(text.push(token))
            yield Piece(out, token, *_logprobs(token, logs, logprobs))
            if held.stopped:
                finish = "stop"
                break
            if count < max_tokens:
                logits = decoder.step(token)
        rest = "" if held.stopped else held.push(text.flush()) + held.rest()
        yield Piece(rest, finish=finish)

    def prompt_ids(self, prompt: str | Gap, max_tokens: int | None = None) -> list[int]:
        """The prompt's tokens, behind the one that starts a text where the tokenizer has one.

        Those of a gap leave room for `max_tokens`.
        """
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
    token: int, logs: np.ndarray, count: int
) -> tuple[float, tuple[tuple[int, float], ...]]:
    best = np.argsort(-logs, kind="stable")[:count].tolist() if count else []
    return float(logs[token]), tuple((i, float(logs[i])) for i in best)
