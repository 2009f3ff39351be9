"""Prepared data: the same each time, whole or made again, and cut into windows without a gap."""

import json
import os
import shutil

import numpy as np
import pytest

from lcm.errors import DataError, FileError, LcmWarning, UsageError
from lcm.text.tokenizer import Tokenizer
from lcm.train.corpus import collect
from lcm.train.dataset import Dataset, prepare
from lcm.train.split import IGNORE, Span, Split

SHARD = 500  # tokens, so that there are several shards and documents across them


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    for i in range(40):
        (folder / f"file{i:02}.py").write_text(
            f"def function_{i}(x):\n    return x + {i}\n" * (i + 1)
        )
    return folder


@pytest.fixture(scope="module")
def tokenizer(source):
    return Tokenizer.train((d.read() for d in collect([source]).documents), vocabulary=300)


@pytest.fixture
def dataset(source, tokenizer, tmp_path):
    return prepare(collect([source]), tokenizer, folder=tmp_path / "data", shard_tokens=SHARD)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_input_gives_the_same_bytes_wherever_and_whenever(
    source, tokenizer, dataset, tmp_path
):
    shutil.copytree(source, tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere").iterdir():
        os.utime(path, (1, 1))
    again = prepare(
        collect([tmp_path / "elsewhere"]), tokenizer, folder=tmp_path / "b", shard_tokens=SHARD
    )
    assert again.fingerprint == dataset.fingerprint
    assert content(again.folder) == content(dataset.folder)


def test_other_input_has_another_fingerprint(source, tokenizer, dataset, tmp_path):
    corpus = collect([source])
    other = Tokenizer.train(["x"], vocabulary=290)
    (tmp_path / "renamed").mkdir()
    shutil.copytree(source, tmp_path / "renamed/inner")
    found = {
        dataset.fingerprint,
        prepare(corpus, tokenizer, folder=tmp_path / "1", validation=0.2).fingerprint,
        prepare(corpus, tokenizer, folder=tmp_path / "2").fingerprint,
        prepare(corpus, other, folder=tmp_path / "3").fingerprint,
        prepare(collect([tmp_path / "renamed"]), tokenizer, folder=tmp_path / "4").fingerprint,
    }
    assert len(found) == 5


def test_the_tokens_are_the_documents_with_an_end_behind_each(source, tokenizer, dataset):
    assert len(list(dataset.folder.glob("train-*.bin"))) > 3
    seen = []
    for split in (dataset.train, dataset.validation):
        ends = [*(span.start for span in split.documents[1:]), split.tokens]
        for span, stop in zip(split.documents, ends, strict=True):
            tokens = split.read(span.start, stop)
            text = (source / span.name).read_text()
            assert tokenizer.decode(tokens[:-1]) == text
            assert tokens[-1] == tokenizer.end
            assert span.size == len(text)
            seen.append(span.name)
    assert sorted(seen) == sorted(os.listdir(source))
    assert len(dataset.validation.documents) >= 1


def test_what_is_there_is_used_again(source, tokenizer, dataset, monkeypatch):
    monkeypatch.setattr(Tokenizer, "encode_batch", None)
    again = prepare(collect([source]), tokenizer, folder=dataset.folder, shard_tokens=SHARD)
    assert again.train.tokens == dataset.train.tokens
    assert Dataset.open(dataset.folder).fingerprint == dataset.fingerprint


def test_without_a_folder_it_goes_into_the_cache(source, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("LCM_CACHE_DIR", str(tmp_path))
    done = []
    found = prepare(collect([source]), tokenizer, progress=lambda *now: done.append(now))
    assert found.folder.parent == tmp_path / "data"
    assert found.fingerprint.startswith(found.folder.name)
    total = sum(path.stat().st_size for path in source.iterdir())
    assert done[-1] == (total, total)
    assert len(done) == 40


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "a flipped bit": ("train-00001.bin", flip),
    "a cut shard": ("train-00000.bin", lambda path: os.truncate(path, 10)),
    "a lost shard": ("validation-00000.bin", os.unlink),
    "a cut index": ("index.json", lambda path: os.truncate(path, 100)),
    "an index of nothing": ("index.json", lambda path: path.write_text("[]")),
    "an older index": ("index.json", lambda path: path.write_text('{"version": 0}')),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_refused_and_made_again_with_a_note(source, tokenizer, dataset, damage):
    good = content(dataset.folder)
    name, spoil = DAMAGE[damage]
    spoil(dataset.folder / name)
    with pytest.raises(FileError, match=f"{name}.*prepare the data again"):
        Dataset.open(dataset.folder)
    with pytest.warns(LcmWarning, match=f"{name}.*prepare the data again: done now"):
        prepare(collect([source]), tokenizer, folder=dataset.folder, shard_tokens=SHARD)
    assert content(dataset.folder) == good


def test_a_large_vocabulary_takes_wider_tokens(source, tmp_path):
    names = [f"<|{i}|>" for i in range(1 << 16)]
    tokenizer = Tokenizer.train([], vocabulary=1 << 18, special=["<|endoftext|>", *names])
    found = prepare(collect([source]), tokenizer, folder=tmp_path / "wide")
    assert json.loads((tmp_path / "wide/index.json").read_text())["dtype"] == "uint32"
    assert found.train.read(0, 5).max() > 1 << 16


def test_a_tokenizer_without_an_end_is_refused(source, tmp_path):
    tokenizer = Tokenizer.train(["x"], vocabulary=300, special=["<|pad|>"])
    with pytest.raises(UsageError, match="no token that ends a text"):
        prepare(collect([source]), tokenizer, folder=tmp_path / "data")


# Windows -----------------------------------------------------------------------------------------


def counting(tokens, shards=3):
    """A split whose token at i is i, in files of 10 tokens."""
    spans = [Span(f"{start}.py", 10, start) for start in range(0, tokens, 10)]
    whole = np.arange(tokens, dtype=np.uint16)
    return Split("train", np.array_split(whole, shards), spans)


@pytest.mark.parametrize("tokens", [8, 9, 63, 64, 65, 1000])
def test_every_epoch_visits_every_window_once(tokens):
    split = counting(tokens)
    windows = split.windows(7)
    offsets = set()
    for epoch in range(20):
        inputs, targets = split.batch(epoch * windows, batch=windows, context=7, seed=3)
        assert inputs.shape == targets.shape == (windows, 7)
        assert inputs.dtype == targets.dtype == np.int32
        assert ((inputs + 1) % tokens == targets).all()
        assert len(np.unique(targets)) == windows * 7
        offsets.add(min(inputs[:, 0] % 7))
    assert len(offsets) > 1


def test_a_batch_depends_on_its_position_alone():
    split, again = counting(1000), counting(1000, shards=7)
    whole, _ = split.batch(0, batch=300, context=16, seed=1)
    for position in (0, 5, 59, 61, 124, 280):  # 62 windows an epoch
        inputs, _ = again.batch(position, batch=20, context=16, seed=1)
        np.testing.assert_array_equal(inputs, whole[position : position + 20])
    other, _ = split.batch(0, batch=300, context=16, seed=2)
    assert (other != whole).any()


def test_epochs_differ_in_order_and_offset():
    split = counting(1000)
    first, _ = split.batch(0, batch=62, context=16, seed=0)
    second, _ = split.batch(62, batch=62, context=16, seed=0)
    assert (np.argsort(first[:, 0]) != np.argsort(second[:, 0])).any()
    assert set(first[:, 0]) != set(second[:, 0])


def test_the_order_is_this_one_on_every_machine():
    inputs, _ = counting(100).batch(0, batch=12, context=8, seed=42)
    # Written down, because a run that resumes under another numpy must go on in the same order.
    assert inputs[:, 0].tolist() == [24, 56, 72, 0, 64, 88, 16, 40, 48, 8, 80, 32]


def test_evaluation_covers_the_split_in_order_and_masks_what_is_behind_it():
    split = counting(50)
    batches = list(split.evaluation_batches(2, 8))
    assert all(i.shape == t.shape == (2, 8) for i, t in batches)
    targets = np.concatenate([t.reshape(-1) for _, t in batches])
    inputs = np.concatenate([i.reshape(-1) for i, _ in batches])
    assert targets[:49].tolist() == list(range(1, 50))
    assert inputs[:49].tolist() == list(range(49))
    assert (targets[49:] == IGNORE).all()
    assert len(targets) == 64
    assert len(list(split.evaluation_batches(2, 8, limit=2))) == 2
    assert len(list(counting(17).evaluation_batches(2, 8))) == 1
    assert len(list(counting(18).evaluation_batches(2, 8))) == 2


def test_sources_are_the_files_of_the_batch():
    split = counting(100)
    for position in range(0, 200, 7):
        inputs, targets = split.batch(position, batch=3, context=16, seed=5)
        tokens = np.unique(np.concatenate([inputs, targets]))
        expected = {f"{token // 10 * 10}.py" for token in tokens.tolist()}
        found = split.sources(position, 3, 16, 5)
        assert set(found) == expected
        assert len(found) == len(expected)


def test_a_split_that_is_too_short_says_both_numbers():
    with pytest.raises(DataError, match="has 16 tokens, but a context of 16 needs 17"):
        counting(16).windows(16)
    with pytest.raises(DataError, match="has 0 tokens; nothing to evaluate"):
        next(Split("validation", [], []).evaluation_batches(1, 8))
