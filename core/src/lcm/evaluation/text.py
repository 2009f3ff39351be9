"""Text to evaluate on: files as tokens, in windows that a model sees one at a time."""

from collections.abc import Iterator

import numpy as np

from lcm.text.tokenizer import Tokenizer
from lcm.train.corpus import Corpus
from lcm.train.split import IGNORE, Batch, Split


def as_split(corpus: Corpus, tokenizer: Tokenizer) -> Split:
    """The whole corpus as tokens in memory, each document behind the token that a text starts from."""
    start = tokenizer.end if tokenizer.start is None else tokenizer.start
    before = [] if start is None else [start]
    texts = tokenizer.encode_batch([document.read() for document in corpus.documents])
    return Split("text", [np.array([i for ids in texts for i in before + ids], np.int32)], ())


def windows(
    split: Split, tokenizer: Tokenizer, *, batch: int, context: int, limit: int | None = None
) -> Iterator[Batch]:
    """The text once, as (inputs, targets), each (batch, context) i32; at most `limit` batches.

    Where the tokenizer has a token that starts a text, every window starts with it, as every prompt does,
    in place of the token there; that it comes is not predicted.
    """
    for inputs, targets in split.evaluation_batches(batch, context, limit):
        if tokenizer.start is not None:
            inputs[:, 0] = tokenizer.start
            targets[targets == tokenizer.start] = IGNORE
        yield inputs, targets
