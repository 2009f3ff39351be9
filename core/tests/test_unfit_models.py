"""Models whose parts do not fit each other, or that lcm does not know: what is said when they are loaded."""

import json
import os

import numpy as np
import pytest

from lcm import models
from lcm.errors import FileError, LcmError
from lcm.files.gguf import open_gguf
from lcm.files.gguf_writing import save_gguf
from lcm.generate.loading import load_model
from lcm.models.conversion import to_gguf
from lcm.text.tokenizer import Tokenizer

CODE = ["def f(x):\n    return x\n"] * 4
LLAMA = {"model_type": "llama", "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64,
         "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A whole model with a tokenizer of as many tokens as it has rows."""
    models.save(models.fresh(LLAMA, seed=1), tmp_path / "model")
    Tokenizer.train(CODE, vocabulary=300).save(tmp_path / "model")
    return tmp_path / "model"


def refusal(path, kind=FileError, load=load_model):
    with pytest.raises(kind) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and message.isprintable()
    return message.removeprefix(str(path))


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# Tokenizers.


def test_a_tokenizer_with_more_tokens_than_rows_is_refused(folder):
    assert Tokenizer.train(CODE, vocabulary=300).vocabulary < 300
    rows = Tokenizer.load(folder).vocabulary
    models.save(models.fresh(LLAMA | {"vocab_size": rows - 1}, seed=1), folder)
    said = f": its tokenizer has the token {rows - 1}, and its embedding only {rows - 1} rows; "
    assert refusal(folder).startswith(said)


def test_a_control_token_behind_the_rows_is_in_no_text_and_may_be(folder):
    facts = json.loads((folder / "tokenizer.json").read_text())
    picture = facts["added_tokens"][0] | {"id": 300, "content": "<image>"}
    facts["added_tokens"].append(picture)
    (folder / "tokenizer.json").write_text(json.dumps(facts))
    loaded = load_model(folder)
    assert loaded.tokenizer.special["<image>"] >= loaded.tokenizer.vocabulary - 1
    assert loaded.complete("def <image>", max_tokens=2).tokens


def test_a_missing_tokenizer_is_named(folder):
    (folder / "tokenizer.json").unlink()
    said = "/tokenizer.json: no tokenizer can be read there: No such file or directory; "
    assert refusal(folder) == said + "name a model folder or a tokenizer.json"
    (folder / "tokenizer.model").touch()
    assert refusal(folder) == said + "transformers makes one of the tokenizer.model that is there"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"3",
        b'{"model": 3}',
        b'{"model": {"type": "BPE"}}',
        b"[" * 100_000,
    ],
    ids=lambda content: content[:12],
)
def test_a_damaged_tokenizer_is_refused(folder, content):
    (folder / "tokenizer.json").write_bytes(content)
    assert refusal(folder).startswith("/tokenizer.json: is no usable tokenizer: ")


@pytest.mark.parametrize(
    "changes",
    [
        {"decoder": []},
        {"decoder": 3},
        {"added_tokens": 3},
        {"added_tokens": [3]},
        {"added_tokens": [{}]},
    ],
    ids=str,
)
def test_a_tokenizer_of_odd_parts_is_refused(folder, changes):
    change(folder / "tokenizer.json", **changes)
    assert refusal(folder).startswith("/tokenizer.json: is no usable tokenizer: ")


def test_a_tokenizer_over_which_its_library_panics_is_refused(folder, capfd):
    facts = json.loads((folder / "tokenizer.json").read_text())
    facts["model"]["continuing_subword_prefix"] = "x" * 99
    (folder / "tokenizer.json").write_text(json.dumps(facts))
    assert "is no usable tokenizer: " in refusal(folder)
    assert "panicked" in capfd.readouterr().err, "another way to make it panic is needed"


def test_a_tokenizer_with_an_id_that_would_fill_memory_is_refused(folder):
    facts = json.loads((folder / "tokenizer.json").read_text())
    facts["model"]["vocab"]["x" * 9] = 2**32 - 1
    (folder / "tokenizer.json").write_text(json.dumps(facts))
    with pytest.raises(FileError, match="but one with the id 4294967295"):
        load_model(folder)


def test_a_tokenizer_that_is_a_pipe_is_not_waited_for(folder):
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    assert refusal(folder) == "/tokenizer.json: is not a file; check the path"


# Architectures and formats.


@pytest.mark.parametrize(
    ("name", "near"),
    [("qwen2_moe", "qwen2"), ("qwen3_next", "qwen3"), ("granitemoe", "granite"), ("gemma3", "gemma3_text"),
     ("qwen3_moe_vl", "qwen3_moe"), ("lama", "llama"), ("mamba", None), ("deepseek_v3", None)],
)  # fmt: skip
def test_an_unknown_architecture_is_told_from_what_is_like_it(folder, name, near):
    change(folder / "config.json", model_type=name)
    hint = f" (there is '{near}', but not what '{name}' adds or changes)" if near else ""
    known = ", ".join(models.ARCHITECTURES)
    assert refusal(folder) == f": no architecture '{name}' here{hint}; there are: {known}"


@pytest.fixture
def gguf(folder):
    """Rewrite the model as a GGUF file with other metadata; `...` takes a key away."""

    def gguf(**changes):
        to_gguf(folder, folder / "whole.gguf", "f32")
        whole = open_gguf(folder / "whole.gguf")
        values = {**whole.metadata, **{k.replace("__", "."): v for k, v in changes.items()}}
        kept = {k: v for k, v in values.items() if v is not ...}
        save_gguf(folder / "a.gguf", dict(whole), formats=whole.formats, metadata=kept)
        return folder / "a.gguf"

    return gguf


def test_the_file_that_is_changed_here_loads(gguf):
    assert load_model(gguf()).complete("def", max_tokens=2).tokens


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"general__architecture": "qwen2moe"}, ": no architecture 'qwen2moe' here (there is 'qwen2', "),
        ({"general__architecture": 3}, ": no architecture 3 here; of GGUF files there are: llama, "),
        ({"general__architecture": ["llama"]}, ": no architecture ['llama'] here; "),
        ({"general__architecture": "a\n\x1b[2J"}, r": no architecture 'a\n\x1b[2J' here; "),
        ({"general__architecture": ...}, ": no architecture None here; "),
        ({"llama__block_count": ...}, ": its metadata does not say 'llama.block_count'; "),
        ({"llama__attention.head_count": np.arange(2)}, ": metadata 'llama.attention.head_count' has a "),
        ({"llama__attention.head_count": "2"}, ": metadata 'llama.attention.head_count' is no number, '2', "),
        ({"llama__attention.head_count": np.uint32(0)}, ": config.json: llama's num_attention_heads must be"),
        ({"llama__block_count": np.uint64(2**60)}, ": config.json: llama's num_hidden_layers must be less "),
        ({"llama__embedding_length": np.uint64(2**63)}, ": config.json: llama's hidden_size must be less "),
        ({"llama__rope.freq_base": np.float32("nan")}, ": config.json: llama's rope_theta must be positive"),
        ({"llama__rope.freq_base": np.float64("inf")}, ": config.json: llama's rope_theta must be less "),
        ({"llama__rope.scaling.type": np.arange(2)}, ": metadata 'llama.rope.scaling.type' is no number or"),
        ({"tokenizer__ggml.model": "x" * 999}, ": GGUF metadata: a tokenizer of the kind 'xxx"),
        ({"tokenizer__ggml.tokens": ...}, ": GGUF metadata: tokenizer.ggml.tokens is missing; "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_odd_metadata_is_refused_by_file_and_key(gguf, changes, said):
    path = gguf(**changes)
    found = refusal(path, kind=LcmError)
    assert found.startswith(said) and len(found) < 350


def test_a_format_that_nobody_here_reads_is_refused_by_tensor(folder, gguf):
    blob = bytearray(gguf().read_bytes())
    at = blob.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 2 * 8
    assert blob[at] == 0, "f32"
    blob[at] = 19  # iq1_s
    (folder / "odd.gguf").write_bytes(blob)
    assert "is stored as iq1_s, which lcm cannot compute with" in refusal(folder / "odd.gguf")


# Configurations.


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be less than 512, not 1000000000"),
        ({"hidden_size": 2**31}, "hidden_size must be less than 2,147,483,648, not 2147483648"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps must be float, not 1000000000"),
        ({"rope_theta": float("inf")}, "rope_theta must be less than "),
        ({"rope_theta": float("nan")}, "rope_theta must be positive, not nan"),
        ({"hidden_size": "32\n" * 99}, r"hidden_size must be int, not '32\n32\n32\n"),
        (
            {"hidden_size": 2**31 - 2, "vocab_size": 2**31 - 1, "head_dim": 16},
            "no llama can have these sizes",
        ),
        ({"rope_scaling": [1]}, "rope settings must be a table"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_size_that_no_model_has_is_refused_before_anything_is_made(folder, values, said):
    change(folder / "config.json", **values)
    assert said in refusal(folder)


def test_a_key_twice_is_refused(folder):
    (folder / "config.json").write_text('{"model_type": "llama", "model_type": "gpt2"}')
    assert refusal(folder).startswith(
        "/config.json: cannot be read as JSON: 'model_type' is there twice"
    )


def test_a_configuration_that_is_a_pipe_is_not_waited_for(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert refusal(folder, load=models.load) == "/config.json: is not a file; check the path"
