"""Weights laid out for kernels in files of the cache: made once, mapped from then on, and never needed."""

import os
import resource
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

from lcm import formats, models, settings
from lcm.errors import LcmWarning, UsageError
from lcm.files.cache_folder import CacheFolder
from lcm.models.conversion import to_gguf
from lcm.models.packing import PART, Matrix, packed
from lcm.nn import Linear, products
from lcm.recording import no_grad
from lcm.tensor import Tensor
from lcm.text.tokenizer import Tokenizer

QWEN2 = {
    "model_type": "qwen2", "vocab_size": 320, "hidden_size": 256, "intermediate_size": 512,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
    "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LCM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "packed"


@pytest.fixture
def path(tmp_path):
    """A file that stands for the model's."""
    (tmp_path / "model.gguf").write_bytes(b"weights")
    return tmp_path / "model.gguf"


def blocks(name, rows, columns, seed=0):
    storage = formats.FORMATS[name].storage
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (rows, columns * storage.itemsize), np.uint8).view(storage)


MATRICES = (
    Matrix(blocks("q8_0", 48, 3), "q8_0_x16"),
    Matrix(blocks("q8_0", 16, 3, seed=1), "q8_0_x16"),
    Matrix(blocks("q6_k", 32, 5), "q6_k_x16"),
    Matrix(blocks("q4_0", 16 * (PART // 18 // 16) + 4096, 1), "q4_0_x16"),
)


def test_each_matrix_is_interleaved_and_neighbours_are_one(path):
    found = packed(MATRICES, path)
    for i, matrix in enumerate(MATRICES):
        np.testing.assert_array_equal(
            found.matrix(i), formats.interleave(matrix.stored, matrix.format)
        )
    both = np.concatenate([MATRICES[0].stored, MATRICES[1].stored])
    np.testing.assert_array_equal(found.matrix(0, 1), formats.interleave(both, "q8_0_x16"))


def test_the_second_time_it_is_only_mapped(path, cache):
    packed(MATRICES, path)
    (file,) = cache.iterdir()
    made = file.stat().st_mtime_ns
    os.utime(file, (0, made / 1e9))
    made = file.stat().st_mtime_ns
    found = packed(MATRICES, path)
    assert [f.stat().st_mtime_ns for f in cache.iterdir()] == [made]
    assert file.stat().st_atime > 0
    assert not found.matrix(0).flags.owndata and not found.matrix(0).flags.writeable


def test_another_model_boot_or_matrix_has_another_file(path, cache, monkeypatch):
    packed(MATRICES, path)
    path.write_bytes(b"other weights")
    packed(MATRICES, path)
    packed(MATRICES[:3], path)
    monkeypatch.setattr("lcm.models.packing.boot", lambda: "tomorrow")
    packed(MATRICES, path)
    assert len(list(cache.iterdir())) == 4


@pytest.mark.parametrize("limit", ["0", "16"])
def test_beyond_the_limit_weights_are_as_they_are_stored_and_that_is_said(
    limit, path, cache, monkeypatch
):
    monkeypatch.setenv("LCM_PACKED_FILES", limit)
    with pytest.warns(
        LcmWarning, match=r"the weights take 17 MB, more than packed_files allows; .*slower"
    ):
        assert packed(MATRICES, path) is None
    assert not cache.exists()


def test_within_the_limit_what_was_not_used_for_longest_goes(path, cache, monkeypatch):
    monkeypatch.setenv("LCM_PACKED_FILES", "20")
    packed(MATRICES, path)
    (oldest,) = cache.iterdir()
    os.utime(oldest, (0, oldest.stat().st_mtime))
    path.write_bytes(b"other weights")
    found = packed(MATRICES, path)
    assert len(list(cache.iterdir())) == 1 and not oldest.exists()
    assert found.matrix(0).shape == (3, 3)


@pytest.mark.parametrize("limit", ["-1", "1.5", "much"])
def test_the_limit_is_a_number_of_megabytes(limit, path, monkeypatch):
    monkeypatch.setenv("LCM_PACKED_FILES", limit)
    with pytest.raises(
        UsageError, match=f"LCM_PACKED_FILES: packed_files is a number of MB, not '{limit}'"
    ):
        packed(MATRICES, path)


def test_on_a_full_disk_weights_are_as_they_are_stored_and_that_is_said(path, cache):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.warns(LcmWarning, match="no space left.*; weights are read as they are stored"):
            assert packed(MATRICES, path) is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("size", [0, 100, 10**8])
def test_a_file_of_another_size_is_made_again(size, path, cache):
    packed(MATRICES, path)
    (file,) = cache.iterdir()
    os.truncate(file, size)
    found = packed(MATRICES, path)
    np.testing.assert_array_equal(
        found.matrix(2), formats.interleave(MATRICES[2].stored, "q6_k_x16")
    )
    assert file.stat().st_size == sum(matrix.stored.nbytes for matrix in MATRICES)


KILLED = """
import os, sys
from lcm.files.atomic import write_atomically
write_atomically(sys.argv[1], lambda file: (file.write(b"half"), file.flush(), os.kill(os.getpid(), 9)))
"""


def test_what_a_killed_process_left_is_removed(path, cache):
    subprocess.run([sys.executable, "-c", KILLED, cache / "half"], check=False)
    (left,) = cache.iterdir()
    packed(MATRICES, path)
    assert not left.exists() and len(list(cache.iterdir())) == 1


def test_several_at_once_find_the_same(path, cache):
    found = [None] * 4

    def pack(i):
        found[i] = packed(MATRICES, path).matrix(0).copy()

    threads = [threading.Thread(target=pack, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = formats.interleave(MATRICES[0].stored, "q8_0_x16")
    assert all((one == wanted).all() for one in found)
    assert len(list(cache.iterdir())) == 1


def test_a_file_that_goes_stays_with_who_has_it(path, cache):
    found = packed(MATRICES, path)
    CacheFolder(cache, 0).make_room()
    assert list(cache.iterdir()) == []
    np.testing.assert_array_equal(
        found.matrix(0), formats.interleave(MATRICES[0].stored, "q8_0_x16")
    )


@pytest.mark.usefixtures("kit")
@pytest.mark.parametrize("recipe", ["q8_0", "q4_k_m"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_model_computes_the_same_from_packed_weights(recipe, rows, tmp_path, monkeypatch):
    model = models.fresh(QWEN2, seed=0)
    for name, parameter in model.parameters().items():
        if name.endswith("bias"):  # which are drawn as 0
            parameter.data[...] = np.random.default_rng(len(name)).standard_normal(parameter.shape)
    models.save(model, tmp_path / "folder")
    Tokenizer.train(["def f(x):\n    return x\n"] * 20, vocabulary=270).save(tmp_path / "folder")
    to_gguf(tmp_path / "folder", tmp_path / "model.gguf", recipe)
    found = {}
    for layout in ("on", "off", "on"):
        monkeypatch.setenv("LCM_INTERLEAVE", layout)
        with warnings.catch_warnings(), no_grad():
            warnings.simplefilter("error")
            made = models.load(tmp_path / "model.gguf", as_stored=True)
            found[layout] = made(Tensor(np.arange(5, 5 + rows, dtype=np.int32)[None])).numpy()
    joined = [m for m in made.modules() if isinstance(m, Linear) and m.joined]
    assert len(joined) >= 4
    np.testing.assert_array_equal(found["on"], found["off"])


def test_what_is_not_joined_is_asked_one_by_one():
    rng = np.random.default_rng(0)
    layers = [Linear(8, 4), Linear(8, 6, bias=True), Linear(8, 2)]
    for layer in layers:
        layer.initialise(rng)
    layers[1].bias.data[...] = 3
    x = Tensor(rng.standard_normal((1, 1, 8), np.float32))
    apart = [layer(x).numpy() for layer in layers]
    whole = Linear(8, 8, bias=True)
    whole.weight = Tensor(np.concatenate([layer.weight.data for layer in layers[1:]]))
    whole.bias = Tensor(np.array([3] * 6 + [0] * 2, np.float32))
    layers[1].joined = whole, (6, 2)
    for found, wanted in zip(products(x, *layers), apart, strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6, atol=1e-6)


def test_the_setting_has_a_default():
    assert settings.megabytes("packed_files") == 20_000_000_000
