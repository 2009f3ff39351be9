"""`lcm tokenize` as a user runs it."""

import json

import pytest
from click.testing import CliRunner

from lcm.cli.tokenize import command
from lcm.errors import DataError, FileError, UsageError
from lcm.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    Tokenizer.train(["def f(x):\n    return x\n" * 9], vocabulary=280).save(folder)
    return folder


def run(*arguments, **options):
    return CliRunner().invoke(command, [*map(str, arguments)], catch_exceptions=False, **options)


def test_it_shows_ids_and_pieces(model):
    tokenizer = Tokenizer.load(model)
    found = run("--model", model, "def é").output.splitlines()
    assert [int(line.split()[0]) for line in found[:-1]] == tokenizer.encode("def é")
    assert found[0].split()[1] == "'def'"
    assert found[-1].startswith(f"{len(tokenizer.encode('def é'))} tokens for 6 bytes")


def test_json_holds_the_same_from_standard_input_and_by_name(model, monkeypatch):
    monkeypatch.setenv("LCM_MODELS_DIR", str(model.parent))
    (model / "config.json").write_text("{}")  # which makes the folder a model
    found = json.loads(run("--model", model.name, "--json", "-", input="def f\n").output)
    assert found["ids"] == Tokenizer.load(model).encode("def f\n")
    assert "".join(found["pieces"]) == "def f\n"
    assert (found["tokens"], found["bytes"]) == (len(found["ids"]), 6)


def test_control_tokens_are_parsed_only_when_asked_for(model):
    text = "<|endoftext|>"
    assert json.loads(run("--model", model, "--json", text).output)["tokens"] > 1
    assert json.loads(run("--model", model, "--json", "--special", text).output)["pieces"] == [text]


def test_it_trains_one(tmp_path):
    (tmp_path / "a.py").write_text("def f(x):\n    return x\n" * 9)
    out = tmp_path / "tokenizer.json"
    found = json.loads(run("--train", tmp_path, "--vocabulary", 270, "--out", out, "--json").output)
    assert found["vocabulary"] == Tokenizer.load(out).vocabulary == 270
    assert found["files"] == 1
    assert run("--train", tmp_path, "--vocabulary", 270, "--out", out).output.startswith(str(out))


def test_mistakes_are_errors_of_ours(model, tmp_path):
    for error, arguments in [
        (UsageError, ["--model", "no-such-model", "x"]),
        (UsageError, ["--model", model, "x", "y"]),
        (UsageError, ["--train", tmp_path]),
        (DataError, ["--train", tmp_path, "--out", tmp_path / "t.json"]),
        (FileError, ["--model", tmp_path, "x"]),
    ]:
        with pytest.raises(error):
            run(*arguments)
    with pytest.raises(UsageError, match="not UTF-8 at byte 1"):
        run("--model", model, "-", input=b"a\xff")
