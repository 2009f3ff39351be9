"""Damaged files of each kind: whole ones, with fields, values and bytes changed as a fuzzer decides."""

import json
import struct
from pathlib import Path

import numpy as np
from choices import NAMES, Choices

from lcm import models
from lcm.errors import LcmError
from lcm.files.gguf import TYPES, open_gguf
from lcm.files.gguf_writing import save_gguf
from lcm.files.safetensors import DTYPES
from lcm.formats import FORMATS
from lcm.models.conversion import to_gguf
from lcm.text.tokenizer import Tokenizer

TINY = {"model_type": "llama", "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True,
        "num_local_experts": 4,
        "max_position_embeddings": 64}  # fmt: skip
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 300,
    "n_embd": 32,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 64,
}
SCALINGS = (
    {"rope_type": "linear", "factor": 2.0}, {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32},
    {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 32},
    {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "factor": 2.0,
     "original_max_position_embeddings": 32},
)  # fmt: skip


def configurations():
    """A `config.json` of each architecture."""
    return {
        name: GPT2 if name == "gpt2" else TINY | {"model_type": name}
        for name in models.ARCHITECTURES
    }


def make_models(folder: Path) -> None:
    """A whole model of each architecture that can be one, as a folder and as a GGUF file."""
    tokenizer = Tokenizer.train(["def f(x):\n    return x\n"] * 4, vocabulary=300)
    for name, values in configurations().items():
        models.save(models.fresh(values, seed=1), folder / name)
        tokenizer.save(folder / name)
        try:
            to_gguf(folder / name, folder / f"{name}.gguf", "q8_0" if name == "llama" else "f16")
        except LcmError:
            continue  # no GGUF file can be written of it


# safetensors -------------------------------------------------------------------------------------


def safetensors(choose: Choices) -> bytes:
    """Up to four tensors with fields changed, then bytes."""
    start, pairs, data = 0, [], b""
    for i in range(1 + choose.below(4)):
        dtype = choose.of(DTYPES)
        shape = choose.of(([4], [2, 2], [], [0], [0, 3], [8, 1, 1]))
        size = int(np.prod(shape)) * DTYPES[dtype][1] // 8
        fields = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + size]}
        start += size
        pairs.append((f"t{i}", fields))
        data += bytes(size)
    for _ in range(choose.below(4)):
        i = choose.below(len(pairs))
        name, fields = pairs[i]
        field = choose.of(("dtype", "shape", "data_offsets", "name", "all", "order", "more"))
        if field == "name":
            pairs[i] = choose.of(NAMES), fields
        elif field == "all":
            pairs[i] = name, choose.anything()
        elif field == "order":
            pairs.append(pairs.pop(i))
        elif field == "more":
            pairs.append((choose.of(("__metadata__", *NAMES)), choose.anything()))
        elif isinstance(fields, dict) and field in fields:
            pairs[i] = name, fields | {field: _other(choose, fields[field])}
    text = (
        "{" + ",".join(f"{json.dumps(name)}:{json.dumps(fields)}" for name, fields in pairs) + "}"
    )
    header = choose.raw(text.encode()) if choose.below(3) == 1 else text.encode()
    length = choose.size() % 2**64 if choose.below(8) == 1 else len(header)
    whole = length.to_bytes(8, "little") + header + data
    return choose.raw(whole) if choose.below(3) == 1 else whole


def _other(choose: Choices, value):
    if not isinstance(value, list) or choose.below(3) == 1:
        return choose.anything()
    place = choose.below(len(value) + 1)
    other = choose.of((choose.size(), choose.anything()))
    return [*value[:place], other, *value[place + choose.below(2) :]]


# GGUF --------------------------------------------------------------------------------------------

NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "B",
    10: "Q",
    11: "q",
    12: "d",
}
KEYS = (
    "general.alignment",
    "split.count",
    "split.no",
    "split.tensors.count",
    "a",
    "general.architecture",
)


def _text(choose: Choices, text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    length = choose.size() % 2**64 if choose.below(12) == 1 else len(raw)
    return struct.pack("<Q", length) + raw


def _value(choose: Choices, kind: int, depth: int = 0) -> bytes:
    if kind in NUMBERS:
        if NUMBERS[kind] in "fd":
            return struct.pack(
                "<" + NUMBERS[kind], choose.of((0.0, 1.5, float("inf"), float("nan")))
            )
        width = struct.calcsize("<" + NUMBERS[kind])
        return (choose.of((32, 1, 2, choose.size())) % 256**width).to_bytes(width, "little")
    if kind == 8:
        return _text(choose, choose.of(("abc", *NAMES)))
    if kind != 9 or depth > 12:
        return b""
    inner, count = choose.of((4, 8, 9, 7, 13)), choose.below(4)
    said = choose.size() % 2**64 if choose.below(8) == 1 else count
    values = b"".join(_value(choose, inner, depth + 1) for _ in range(count))
    return struct.pack("<IQ", inner, said) + values


def gguf(choose: Choices) -> bytes:
    """Up to four values and tensors of any type and format, with fields and bytes changed."""
    pairs = tensors = data = b""
    count, values = choose.below(5), choose.below(5)
    for i in range(values):
        key = choose.of((f"key{i}", *KEYS, *NAMES)) if choose.below(2) else f"key{i}"
        kind = choose.of((*NUMBERS, 8, 9, 13, choose.size() % 2**32))
        pairs += _text(choose, key) + struct.pack("<I", kind) + _value(choose, kind)
    for i in range(count):
        type = choose.of((*TYPES, choose.size() % 2**32))
        format = FORMATS.get(TYPES.get(type, ""))
        shape = choose.of(((256,), (256, 2), (0,), (), (32, 0), (256, 1, 1, 2)))
        if choose.below(6) == 1:
            shape = tuple(choose.size() % 2**64 for _ in range(choose.below(7)))
        offset = choose.size() % 2**64 if choose.below(8) == 1 else len(data)
        tensors += _text(choose, choose.of(NAMES) if choose.below(6) == 1 else f"t{i}")
        tensors += struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, type, offset)
        size = format.bytes(int(np.prod(shape, dtype=object))) if format else 0
        data += bytes(min(size, 4096) + -size % 32)
    counts = [choose.size() % 2**64 if choose.below(12) == 1 else n for n in (count, values)]
    head = struct.pack("<4sIQQ", b"GGUF", choose.of((3, 2, 3, 1, 4, 3 << 24)), *counts)
    header = head + pairs + tensors
    whole = header + bytes(-len(header) % 32) + data
    return choose.raw(whole) if choose.below(3) == 1 else whole


# Models ------------------------------------------------------------------------------------------


def configuration(choose: Choices) -> dict:
    """Of some architecture, with values of all types under some of its keys."""
    values = dict(choose.of(configurations().values()))
    if choose.below(2) and "hidden_size" in values:
        values["rope_scaling"] = dict(choose.of(SCALINGS))
    for _ in range(1 + choose.below(3)):
        table = values.get("rope_scaling") if choose.below(2) else values
        table = table if isinstance(table, dict) else values
        known = models.importlib.import_module(models.ARCHITECTURES["qwen3_moe"][0]).Config
        keys = (
            *table,
            *known.__dataclass_fields__,
            "layer_types",
            "model_type",
            "partial_rotary_factor",
        )
        table[choose.of(keys)] = choose.anything()
    return values


def damaged_model(choose: Choices, source: Path, out: Path) -> None:
    """A model's GGUF file with other values in its metadata, other tensors, other bytes."""
    opened = open_gguf(source)
    values, tensors = dict(opened.metadata), {name: opened[name] for name in opened}
    formats = dict(opened.formats)
    for _ in range(1 + choose.below(3)):
        key = choose.of((*values, "llama.rope.scaling.type", "llama.rope.scaling.factor"))
        other = choose.of((_numpy(choose), choose.of(NAMES), True, list(NAMES[:3]), np.arange(3),
                           values[choose.of(values)], None))  # fmt: skip
        if other is None:
            values.pop(key, None)
        else:
            values[key] = other
        if choose.below(4) == 1:
            name = choose.of(("rope_freqs.weight", *tensors))
            format = choose.of(("f32", "f16", "bf16", "q8_0", "i8"))
            shape = choose.of(((8,), (32,), (32, 32), (0,), (2, 32, 32)))
            tensors[name] = np.zeros(FORMATS[format].stored(shape if format != "q8_0" else (32,)),
                                     FORMATS[format].storage)  # fmt: skip
            formats[name] = format
        elif choose.below(6) == 1:
            tensors.pop(choose.of(tensors), None)
    save_gguf(out, tensors, formats={n: formats[n] for n in tensors}, metadata=values)
    if choose.below(4) == 1:
        out.write_bytes(choose.raw(out.read_bytes()))


def _numpy(choose: Choices):
    kind = choose.of(
        (np.uint8, np.int8, np.uint32, np.int32, np.uint64, np.int64, np.float32, np.float64)
    )
    with np.errstate(over="ignore"):
        return np.array([choose.of((choose.size(), 1, 2, 3)) % 2**64], np.uint64).astype(kind)[0]
