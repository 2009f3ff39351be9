"""What a model is, and what memory it takes, from its files alone: none of its weights is read."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from lcm import formats, host, models
from lcm.formats.cached import cache_format


@dataclass(frozen=True)
class Summary:
    """A model in numbers; bytes are those of the weights as they are stored."""

    model_type: str
    parameters: int
    layers: int
    context: int
    vocabulary: int
    formats: dict[str, int]  # bytes of the weights in each
    bytes_each: int  # of the cache, for one token

    @property
    def weights(self) -> int:
        """Bytes of all weights."""
        return sum(self.formats.values())

    def bytes_at(self, context: int) -> int:
        """Of weights and cache together, for a text of so many tokens."""
        return self.weights + self.bytes_each * context

    def fits_at(self, context: int) -> bool | None:
        """Whether that is less than this machine's memory; None if that is not known."""
        memory = host.current().memory.value
        return None if memory is None else self.bytes_at(context) < memory


def summary(path: str | Path) -> Summary:
    """The summary of a folder or a GGUF file; `FileError` says what is wrong with it."""
    model, weights = models.opened(path)
    count: Counter[str] = Counter()
    parameters = model.parameters()
    for name, stored in models.matched(model, weights, str(path)).items():
        count[stored.format] += formats.FORMATS[stored.format].bytes(parameters[name].size)
    layers, heads, width = model.cache_shape
    return Summary(
        model.model_type,
        sum(math.prod(parameter.shape) for parameter in parameters.values()),
        layers,
        model.context,
        model.vocabulary,
        dict(count.most_common()),
        formats.FORMATS[cache_format(width)].bytes(2 * layers * heads * width),
    )
