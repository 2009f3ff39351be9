"""Texts that begin alike: what is read once is not read again, and changes nothing."""

import json
import os
import threading

import numpy as np
import pytest
from click.testing import CliRunner

from lcm import models
from lcm.cli.complete import command
from lcm.errors import ContextError, LcmWarning, UsageError
from lcm.files.cache_folder import CacheFolder
from lcm.files.safetensors import open_safetensors, save_safetensors
from lcm.generate.decoder import Decoder
from lcm.generate.loading import load_model
from lcm.generate.prefix_files import SHORTEST, PrefixFiles
from lcm.generate.prefixes import Prefixes
from lcm.text.tokenizer import Tokenizer

SIZES = {"hidden_size": 64, "intermediate_size": 16, "num_hidden_layers": 2, "vocab_size": 290,
         "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 1000}  # fmt: skip
MODELS = {
    "gpt2": {"model_type": "gpt2", "n_positions": 1000, "n_embd": 64, "n_layer": 2, "n_head": 2,
             "vocab_size": 290},
    "llama": {"model_type": "llama", **SIZES},
    "mistral": {"model_type": "mistral", **SIZES, "sliding_window": 9},
    "longrope": {"model_type": "phi3", **SIZES, "original_max_position_embeddings": 300,
                 "sliding_window": None, "pad_token_id": 0,
                 "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 16,
                                  "long_factor": [3.0] * 16}},
}  # fmt: skip
PLENTY = 10**9


def lively(kind):
    model = models.fresh(MODELS[kind], 3)
    rng = np.random.default_rng(3)
    for parameter in model.parameters().values():
        parameter.data += rng.standard_normal(parameter.shape, np.float32) * 0.1
    return model


def some_ids(count, seed=0):
    return np.random.default_rng(seed).integers(0, 280, count).tolist()


def read(prefixes, ids, steps=0):
    """How many tokens were known, and the logits after the prompt and after some steps."""
    with prefixes.reading(ids) as decoder:
        known = decoder.cache.length
        logits = [decoder.prefill(ids[known:]).copy()]
        logits += [decoder.step(token).copy() for token in some_ids(steps, seed=9)]
        return known, np.array(logits)


def anew(model, ids, steps=0):
    return read(Prefixes(model, memory=0), ids, steps)[1]


@pytest.fixture(params=MODELS)
def model(request):
    return lively(request.param)


@pytest.fixture
def llama():
    return lively("llama")


# In memory.


@pytest.mark.parametrize("common", [1, 40, 128, 300, 510])
def test_only_what_two_texts_do_not_share_is_read_again(model, common):
    """Of a model that reads texts of more than 300 tokens otherwise: where both are, or both are not."""
    prefixes, ids = Prefixes(model, PLENTY), some_ids(520)
    other = [*ids[:common], 281, *some_ids(30, seed=1)]
    alike = model.short is None or len(other) > 300
    for text, known in ((ids, 0), (other, common if alike else 0), (ids, None), (other, None)):
        found, logits = read(prefixes, text, steps=3)
        assert found == known or known is None
        np.testing.assert_allclose(logits, anew(model, text, steps=3), atol=1e-5)


def test_the_last_token_is_always_read(llama):
    prefixes, ids = Prefixes(llama, PLENTY), some_ids(50)
    read(prefixes, ids)
    assert read(prefixes, ids)[0] == 49


def test_what_was_written_after_a_prompt_is_known_too(llama):
    prefixes, ids = Prefixes(llama, PLENTY), some_ids(50)
    read(prefixes, ids, steps=20)
    assert read(prefixes, [*ids, *some_ids(20, seed=9), 5])[0] == 70


def test_another_text_does_not_take_the_place_of_one_that_it_hardly_shares(llama):
    prefixes, ids = Prefixes(llama, PLENTY), some_ids(400)
    read(prefixes, ids)
    other = [*ids[:10], *some_ids(50, seed=2)]
    assert read(prefixes, other)[0] == 10
    assert read(prefixes, ids)[0] == 399
    assert read(prefixes, other)[0] == 59


def test_an_angle_that_follows_from_the_length_is_never_mixed_with_another():
    model, ids = lively("longrope"), some_ids(420)
    prefixes = Prefixes(model, PLENTY)
    assert read(prefixes, ids[:250])[0] == 0
    known, logits = read(prefixes, ids)
    assert known == 0, "it is longer than 300"
    np.testing.assert_allclose(logits, anew(model, ids), atol=1e-5)
    known, logits = read(prefixes, ids[:200])
    assert known == 199, "of the first text, not the second"
    np.testing.assert_allclose(logits, anew(model, ids[:200]), atol=1e-5)
    assert read(prefixes, ids[:410])[0] == 409


def test_texts_that_were_not_used_for_longest_go_first(llama):
    one = Decoder(llama)
    one.prefill(some_ids(100))
    prefixes = Prefixes(llama, memory=2 * one.cache.bytes)
    texts = [some_ids(100, seed=seed) for seed in range(3)]
    read(prefixes, texts[0])
    read(prefixes, texts[1])
    assert read(prefixes, texts[0])[0] == 99
    assert read(prefixes, texts[2])[0] == 0, "the second text goes"
    assert read(prefixes, texts[0])[0] == 99
    assert read(prefixes, texts[1])[0] == 0


def read_too_much(prefixes, ids):
    with prefixes.reading(ids) as decoder:
        decoder.prefill(ids)
        decoder.prefill(ids * 20)


def test_what_was_read_before_an_error_is_not_kept(llama):
    prefixes, ids = Prefixes(llama, PLENTY), some_ids(50)
    with pytest.raises(ContextError):
        read_too_much(prefixes, ids)
    assert read(prefixes, ids)[0] == 0


def test_threads_read_texts_of_their_own(llama):
    prefixes, begin = Prefixes(llama, PLENTY), some_ids(60)
    texts = [[*begin, *some_ids(40, seed=seed)] for seed in range(4)]
    wanted, found = [anew(llama, text) for text in texts], {}

    def work(number):
        for _ in range(5):
            found[number] = read(prefixes, texts[number])[1]

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, logits in enumerate(wanted):
        np.testing.assert_allclose(found[number], logits, atol=1e-5)


# In files.


@pytest.fixture
def saved(tmp_path):
    """A model's folder, and a way to open what a process would have of its texts."""
    model = lively("llama")
    models.save(model, tmp_path / "model")

    def opened(limit=PLENTY, path=tmp_path / "model"):
        folder = CacheFolder(tmp_path / "texts", limit)
        return Prefixes(model, PLENTY, PrefixFiles(model, path, folder))

    return opened


def files(tmp_path):
    return sorted((tmp_path / "texts").glob("*"))


@pytest.mark.parametrize("format", ["f32", "f16", "q8_0"])
def test_another_process_goes_on_from_a_file_with_the_same_bits(
    saved, format, monkeypatch, tmp_path
):
    monkeypatch.setenv("LCM_CACHE_FORMAT", format)
    ids = some_ids(300)
    first, second = saved(), saved()
    read(first, ids)
    first.save()
    ids = [*ids[:280], 281, 282]
    known, logits = read(second, ids, steps=2)
    assert known == 280
    np.testing.assert_array_equal(logits, read(first, ids, steps=2)[1])
    assert (tmp_path / "texts").stat().st_mode & 0o077 == 0, "for the user's eyes only"


def test_a_text_that_goes_on_takes_the_place_of_its_beginning(saved, tmp_path):
    first, ids = saved(), some_ids(400)
    read(first, ids[:200])
    first.save()
    (before,) = files(tmp_path)
    read(first, ids)
    first.save()
    (after,) = files(tmp_path)
    assert before != after
    assert read(saved(), ids)[0] == 399


def test_a_text_with_little_new_is_not_written_again(saved, tmp_path):
    first, ids = saved(), some_ids(400)
    read(first, ids)
    first.save()
    stamp = files(tmp_path)[0].stat().st_mtime_ns
    read(first, [*ids[:390], 281, 282])
    first.save()
    assert [p.stat().st_mtime_ns for p in files(tmp_path)] == [stamp]


def test_a_short_text_is_not_written(saved, tmp_path):
    prefixes = saved()
    read(prefixes, some_ids(SHORTEST - 1))
    prefixes.save()
    assert not files(tmp_path)


def test_a_folder_that_cannot_be_written_is_said_and_stops_nothing(saved, tmp_path):
    (tmp_path / "texts").write_text("no folder")
    prefixes = saved()
    assert read(prefixes, some_ids(200))[0] == 0
    with pytest.warns(LcmWarning, match="this text will be read again"):
        prefixes.save()
    assert read(prefixes, some_ids(200))[0] == 199


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def other_tensors(path):
    models.save(lively("gpt2"), path.parent / "x")
    (path.parent / "x" / "model.safetensors").replace(path)


def without_a_layer(path):
    file = open_safetensors(path)
    save_safetensors(path, {name: file[name].copy() for name in file if name != "1.v"})


def of_wider_heads(path):
    file = open_safetensors(path)
    save_safetensors(
        path, {n: np.repeat(file[n], 2, -1 if n != "tokens" else 0)[: len(file[n])] for n in file}
    )


@pytest.mark.parametrize("damage", [cut, empty, other_tensors, without_a_layer, of_wider_heads])
def test_a_damaged_file_is_said_removed_and_written_again(saved, damage, tmp_path):
    prefixes, ids = saved(), some_ids(300)
    read(prefixes, ids)
    prefixes.save()
    (path,) = files(tmp_path)
    damage(path)
    again = saved()
    with pytest.warns(
        LcmWarning, match=f"{path.name}.*; it is removed, and its text is read again"
    ):
        assert read(again, ids)[0] == 0
    assert not path.exists()
    again.save()
    assert read(saved(), ids)[0] == 299


def test_what_another_model_has_read_is_not_used(saved, tmp_path, monkeypatch):
    prefixes, ids = saved(), some_ids(300)
    read(prefixes, ids)
    prefixes.save()
    assert read(saved(), ids)[0] == 299
    with monkeypatch.context() as patch:
        patch.setenv("LCM_ACTIVATIONS", "f32")
        assert read(saved(), ids)[0] == 0, "other numbers"
    weights = tmp_path / "model" / "model.safetensors"
    os.utime(weights, ns=(0, weights.stat().st_mtime_ns + 1))
    assert read(saved(), ids)[0] == 0, "the weights may be others now"


def test_files_stay_within_their_limit(saved, tmp_path):
    prefixes = saved()
    read(prefixes, some_ids(300))
    prefixes.save()
    size = files(tmp_path)[0].stat().st_size
    for seed in range(1, 5):
        prefixes = saved(limit=int(2.5 * size))
        read(prefixes, some_ids(300, seed))
        prefixes.save()
        assert sum(p.stat().st_size for p in files(tmp_path)) <= 2.5 * size
    assert read(saved(), some_ids(300, 4))[0] == 299, "the latest is there"
    prefixes = saved(limit=size // 2)
    read(prefixes, some_ids(300, 9))
    prefixes.save()
    assert len(files(tmp_path)) == 2, "what is larger than all that may be is not written"


def test_processes_that_write_at_once_leave_whole_files(saved, tmp_path):
    """Here as threads, each with what a process has."""
    texts = [some_ids(200, seed % 3) for seed in range(6)]

    def work(ids):
        prefixes = saved()
        for _ in range(3):
            read(prefixes, ids)
            prefixes.save()

    threads = [threading.Thread(target=work, args=[ids]) for ids in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [read(saved(), ids)[0] for ids in texts] == [199] * 6
    assert len(files(tmp_path)) == 3


# The command, twice.


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LCM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LCM_TUNE", "off")
    tokenizer = Tokenizer.train(["for i in range(10):\n    print(i)\n"] * 4, vocabulary=290)
    models.save(lively("llama"), tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    return tmp_path / "model"


def complete(folder, prompt, *more):
    arguments = [prompt, "--model", str(folder), "-n", "4", "--whole", *more]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def test_a_second_command_reads_only_what_is_new(folder, monkeypatch):
    text = "".join(f"x{i} = {i * i}\n" for i in range(60))
    first = json.loads(complete(folder, text, "--json").stdout)
    assert first["reused_tokens"] == 0
    second = json.loads(complete(folder, text + "y", "--json").stdout)
    assert second["reused_tokens"] >= first["prompt_tokens"] - 1
    assert second["prompt_tokens"] - second["reused_tokens"] < 10
    told = complete(folder, text + "y")
    assert (
        f"{second['reused_tokens']} of the prompt's {second['prompt_tokens']} tokens" in told.stderr
    )
    monkeypatch.setenv("LCM_PREFIX_FILES", "0")
    alone = json.loads(complete(folder, text + "y", "--json").stdout)
    assert (alone["reused_tokens"], alone["tokens"]) == (0, second["tokens"])
    assert complete(folder, text + "y").stderr == ""


def test_a_text_model_from_a_file_reuses_and_one_that_may_learn_does_not(folder, monkeypatch):
    model = load_model(folder)
    assert [model.complete("for i in", max_tokens=3).reused_tokens for _ in "ab"] == [0, 2]
    model.folder = None
    del model.prefixes
    assert [model.complete("for i in", max_tokens=3).reused_tokens for _ in "ab"] == [0, 0]
    monkeypatch.setenv("LCM_PREFIX_MEMORY", "some")
    with pytest.raises(UsageError, match="prefix_memory is a number of MB, not 'some'"):
        load_model(folder).complete("for", max_tokens=3)
