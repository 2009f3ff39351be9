"""Models in GGUF files: their configuration, and their tensors as a checkpoint has them."""

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping
from types import EllipsisType
from typing import Any

import numpy as np

from lcm import formats
from lcm.errors import FileError
from lcm.files.gguf import GgufFile
from lcm.files.refusal import brief
from lcm.files.sharded import ShardedWeights
from lcm.models.config import COUNTS
from lcm.models.dialects import DIALECTS, REQUIRED, Dialect
from lcm.models.scaling import Llama3, Scaling

File = GgufFile | ShardedWeights

def read_config(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: str,
    divisors: np.ndarray | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What a `config.json` would say of the model, whose tensors have these shapes.

    `divisors` is the tensor `DIVISORS`, if there is one: what each pair's rotary frequency is divided by.
    """
    name = _architecture(metadata, where)
    dialect = DIALECTS[name]
    found = {key: _number(metadata, f"{name}.{theirs}", where) for theirs, key in dialect.keys.items()}
    values = {key: value for key, value in found.items() if value is not None}
    values |= {key: tensor in shapes for key, tensor in dialect.switches.items()}
    values |= _scaling(metadata, name, where)
    embedding = "token_embd.weight"
    if len(shapes.get(embedding, ())) != 2:
        raise FileError(f"{where}: has no matrix {embedding!r}; it is no whole model")
    if missing := [key for key in REQUIRED if dialect.keys[key] not in values]:
        raise FileError(f"{where}: its metadata does not say '{name}.{missing[0]}'; convert the model again")
    values |= {
        "model_type": dialect.model_type,
        "vocab_size": shapes[embedding][0],
        "tie_word_embeddings": "output.weight" not in shapes,
    }
    try:
        if divisors is not None:
            values |= _llama3(divisors, values, where)
        return values | dialect.implied(values)
    except KeyError as error:
        raise FileError(f"{where}: its metadata does not say {error}; convert the model again") from None
    except ArithmeticError:
        raise FileError(f"{where}: its metadata says sizes that fit no model; convert it again") from None


def _architecture(metadata: Mapping[str, Any], where: str) -> str:
    name = _plain(metadata.get("general.architecture"))
    if not isinstance(name, str) or name not in DIALECTS:
        raise FileError(f"{where}: no architecture {brief(name)} here{nearest(name, DIALECTS)}; "
                        f"of GGUF files there are: {', '.join(DIALECTS)}")  # fmt: skip
    return name


def nearest(name: object, known: Collection[str]) -> str:
    """For an error's line: which of the known names is like this one."""
    if not isinstance(name, str):
        return ""
    begins = sorted((k for k in known if name.startswith(k)), key=len, reverse=True)
    longer = [k for k in known if k.startswith(name) and name]
    near = begins or longer or difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f" (there is {near[0]!r}, but not what {brief(name)} adds or changes)" if near else ""


def _number(metadata: Mapping[str, Any], key: str, where: str) -> Any:
    found = _plain(metadata.get(key))
    if found is not None and type(found) not in (int, float):
        kind = "is no number" if isinstance(found, str | bool) else "has a number for each layer"
        raise FileError(f"{where}: metadata {key!r} {kind}, {brief(found)}, which lcm cannot compute with")
    return found


def _plain(value: Any) -> Any:
    """A number of Python's; of an f32 the decimal number that was meant: 1e-6, not 9.99999997e-7."""
    if isinstance(value, np.float32):
        return float(str(value))
    return value.item() if isinstance(value, np.generic) else value


def _scaling(metadata: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """The table `rope_scaling`, in the words of config.json."""
    prefix = f"{name}.rope.scaling."
    said = {k.removeprefix(prefix): _plain(metadata[k]) for k in metadata if k.startswith(prefix)}
    if odd := [key for key, value in said.items() if type(value) not in (str, bool, int, float)]:
        raise FileError(f"{where}: metadata {prefix + odd[0]!r} is no number or text; convert it again")
    kind = said.pop("type", "none")
    if kind == "none":
        return {}
    return {"rope_scaling": {"rope_type": kind} | {SCALING.get(k, k): v for k, v in said.items()}}


def _llama3(divisors: np.ndarray, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Llama 3's scaling, of which a file has only what follows from it; all its models have these bounds."""
    scaling = Llama3(float(divisors.max(initial=1)), 1.0, 4.0, 8192)
    width = values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
    theta = values.get("rope_theta", 10000.0)
    fits = divisors.shape == (width / 2,) and np.isfinite(divisors).all() and 0 < theta < 1e38
    if not fits or not np.allclose(divisors_of(scaling, theta, width), divisors, rtol=1e-4):
        raise FileError(f"{where}: its {DIVISORS} is not that of Llama 3's scaling; "
                        f"use the model's safetensors")  # fmt: skip
    return {"rope_scaling": vars(scaling)}


def divisors_in(file: File) -> np.ndarray | None:
    """What the file's tensor `DIVISORS` says, if it has one."""
    format = file.formats.get(DIVISORS)
    return formats.decode(file[DIVISORS], format) if format in formats.FORMATS else None


def divisors_of(scaling: Scaling, theta: float, width: int) -> np.ndarray:
    """(width / 2,) f32: how many times slower each pair turns."""
    plain, scaled = (s.frequencies(theta, width, long=True) for s in (Scaling(), scaling))
    divisors: np.ndarray = plain / scaled
    return divisors


DIVISORS = "rope_freqs.weight"
# Keys of rope.scaling: those of the table rope_scaling, where they differ.
SCALING = {
    "original_context_length": "original_max_position_embeddings", "attn_factor": "attention_factor",
    "yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow",
}  # fmt: skip


class GgufWeights(Mapping[str, np.ndarray]):
    """The tensors of a GGUF file under the names and in the order of numbers that checkpoints have."""

    def __init__(
        self, file: File, values: Mapping[str, Any], to_file: Callable[[str, np.ndarray], np.ndarray]
    ) -> None:
        """`values` of the configuration; `to_file` is the architecture's."""
        dialect = DIALECTS[_architecture(file.metadata, str(file.path))]
        self.path, self.metadata = file.path, file.metadata
        self._file, self._to_file = file, to_file
        self._places = {
            ours: place for name in file if name != DIVISORS for ours, place in _places(dialect, file, name)
        }
        self._heads = dialect.heads(values)
        self._ones = {ours for ours in self._places if dialect.ones and is_norm(ours)}
        stored = {ours: file.formats[name] for ours, (name, _) in self._places.items()}
        self.formats = stored | dict.fromkeys(self._ones, "f32")

    def __getitem__(self, name: str) -> np.ndarray:
        theirs, place = self._places[name]
        array = self._to_file(name, self._file[theirs][place])
        if name in self._ones:
            return formats.decode(array, self._file.formats[theirs]) - np.float32(1)
        heads = self._heads.get(name.rpartition(".")[0].rpartition(".")[2])
        return halves(array, heads) if heads else array

    def shape(self, name: str) -> tuple[int, ...]:
        """As a checkpoint has it, in numbers."""
        theirs, place = self._places[name]
        numbers = np.broadcast_to(np.int8(0), self._file.shape(theirs))[place]
        return self._to_file(name, numbers).shape

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


Place = int | EllipsisType


def _places(dialect: Dialect, file: File, name: str) -> Iterator[tuple[str, tuple[str, Place]]]:
    """A checkpoint's tensors that this one of the file is, and where in it: all of it, or one expert's."""
    ours, shape = dialect.ours(name), file.shape(name)
    if not dialect.is_stack(name):
        yield ours, (name, ...)
        return
    if not 0 < (shape or (0,))[0] < COUNTS["num_experts"]:
        raise FileError(f"{file.path}: {brief(name)} is {shape}, no stack of experts; get the model again")
    yield from ((ours.format(i), (name, i)) for i in range(shape[0]))


def is_norm(name: str) -> bool:
    """Whether this is the weight of a norm."""
    return name.endswith("norm.weight")


def halves(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of heads whose numbers turn in pairs 0 1, 2 3 …, so that those of a pair are half a head apart."""
    rows = array.reshape(heads, -1, 2, *array.shape[1:])
    return rows.swapaxes(1, 2).reshape(array.shape)


def pairs(array: np.ndarray, heads: int) -> np.ndarray:
    """What `halves` was given."""
    rows = array.reshape(heads, 2, -1, *array.shape[1:])
    return rows.swapaxes(1, 2).reshape(array.shape)
