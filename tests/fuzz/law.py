"""What must hold of every reader, whatever is in a file: an end within bounds, in one line if not well."""

import json
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
from choices import Choices
from damaged import configuration, damaged_model, gguf, make_models, safetensors

from lcm import formats, models
from lcm.errors import LcmError, LcmWarning
from lcm.files.gguf import open_gguf
from lcm.files.safetensors import open_safetensors
from lcm.files.weights import open_weights
from lcm.text.tokenizer import Tokenizer

SECONDS = 1  # of the processor
BYTES = 64 << 20  # beside the file's own


class Laws:
    """Each reader with files that are damaged for it, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        make_models(folder)
        self._models = sorted(folder.glob("*.gguf"))
        self._kinds = (
            self.gguf, self.safetensors, self.model, self.configuration, self.index, self.tokenizer,
        )  # fmt: skip

    def check(self, choose: Choices) -> None:
        """Damage a file of some kind, and read it."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", LcmWarning)
            choose.of(self._kinds)(choose)

    def gguf(self, choose: Choices) -> None:
        path = self._folder / "damaged.gguf"
        path.write_bytes(gguf(choose))
        within_bounds(path, lambda: read_all(open_gguf(path)))

    def safetensors(self, choose: Choices) -> None:
        path = self._folder / "damaged.safetensors"
        path.write_bytes(safetensors(choose))
        within_bounds(path, lambda: read_all(open_safetensors(path)))

    def model(self, choose: Choices) -> None:
        path = self._folder / "model.gguf"
        try:
            damaged_model(choose, choose.of(self._models), path)
        except (LcmError, TypeError):
            return  # the writer has checks of its own
        within_bounds(path, lambda: load(path), memory=False)

    def configuration(self, choose: Choices) -> None:
        values = configuration(choose)
        name = values["model_type"]
        folder = self._folder / (name if name in [*models.ARCHITECTURES] else "llama")
        path = folder / "config.json"
        path.write_text(json.dumps(values))
        within_bounds(path, lambda: load(folder), memory=False)

    def index(self, choose: Choices) -> None:
        folder = self._folder / "sharded"
        folder.mkdir(exist_ok=True)
        (folder / "a.safetensors").write_bytes(
            (self._folder / "llama" / "model.safetensors").read_bytes()
        )
        places = {"lm_head.weight": "a.safetensors", "model.norm.weight": "a.safetensors"}
        for _ in range(choose.below(3)):
            places[choose.of((*places, "x"))] = choose.anything()
        found = {
            "metadata": choose.anything(),
            "weight_map": choose.of((places, choose.anything())),
        }
        path = folder / "model.safetensors.index.json"
        text = json.dumps(found).encode()
        path.write_bytes(choose.raw(text) if choose.below(3) == 1 else text)
        within_bounds(folder, lambda: read_all(open_weights(folder)))

    def tokenizer(self, choose: Choices) -> None:
        whole = json.loads((self._folder / "llama" / "tokenizer.json").read_text())
        whole["added_tokens"][0] = choose.of((whole["added_tokens"][0], {"id": choose.anything()}))
        for _ in range(1 + choose.below(3)):
            table = choose.of((whole, *(v for v in whole.values() if isinstance(v, dict))))
            if isinstance(table, dict) and table:
                table[choose.of(table)] = choose.anything()
        folder = self._folder / "words"
        folder.mkdir(exist_ok=True)
        path = folder / "tokenizer.json"
        text = json.dumps(whole).encode()
        path.write_bytes(choose.raw(text) if choose.below(3) == 1 else text)
        within_bounds(path, lambda: use(Tokenizer.load(folder)), memory=False)


def within_bounds(path, read, memory=True) -> None:
    """Read a file, which may end in an error of ours, of one line that names it."""
    if memory:
        tracemalloc.start()
    started = time.process_time()
    try:
        read()
    except LcmError as error:
        one_line(error, path)
    finally:
        took = time.process_time() - started
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert took < SECONDS * (3 if memory else 1), f"{took:.1f} s"
    assert peak < path.stat().st_size + BYTES, f"{peak / 1e6:.0f} MB"


def one_line(error: LcmError, path: Path) -> None:
    said = str(error)
    assert said.isprintable() and len(said) < 900 and str(path.parent) in said, said


def read_all(opened) -> None:
    """Every value and tensor; what one refuses does not spare the others."""
    for part in (opened.metadata, opened):
        for name in part:
            try:
                found = part[name]
                if isinstance(found, np.ndarray):
                    found.tobytes()  # touches all of it
            except LcmError as error:
                one_line(error, opened.path)
    for name in opened:
        if opened.formats[name] in formats.FORMATS:
            assert formats.decode(opened[name], opened.formats[name]).shape == opened.shape(name)


def load(path: Path) -> None:
    models.load(path, as_stored=True)
    if path.suffix == ".gguf":
        use(Tokenizer.load(path))


def use(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("def f(x):\n    return 'größer'")
    tokenizer.decode(ids)
    assert tokenizer.vocabulary >= len(tokenizer.special)
