"""lcm bench generate and startup: what they measure, and that figures are what they say."""

import dataclasses
import re

import numpy as np
import pytest
from click.testing import CliRunner

from lcm import models, no_grad
from lcm.backend import native
from lcm.bench import generate, startup, train
from lcm.cli.bench import command
from lcm.errors import LcmError, UsageError
from lcm.generate.decoder import Decoder
from lcm.generate.loading import load_model
from lcm.text.tokenizer import Tokenizer
from lcm.train.checkpoint import save_model


@pytest.fixture
def writer(tmp_path):
    """A folder with a model that has learnt nothing."""
    tokenizer = Tokenizer.train(["def f(x):\n    return x\n"] * 4, vocabulary=280)
    config = (
        train.SAME | train.PRESETS["4x128"] | {"vocab_size": tokenizer.vocabulary, "n_layer": 1}
    )
    save_model(tmp_path / "writer", models.fresh(config, seed=0), tokenizer)
    return tmp_path / "writer"


def test_taking_in_and_writing_are_told_in_tokens_a_second(writer, monkeypatch):
    monkeypatch.setenv("LCM_BACKEND", "reference")
    results = generate.run(str(writer), prompts=[9, 0], tokens=[4], repetitions=3, price=3.6)
    prompt, text = results.rows
    assert [prompt.case["test"], text.case["test"]] == ["pp9", "tg4"]
    assert len(prompt.seconds) == 3 and len(text.seconds) == 3 * 4
    texts = np.reshape(text.seconds, (3, 4)).sum(1)
    for row, rates in ((prompt, 9 / np.array(prompt.seconds)), (text, 4 / texts)):
        assert row.figures["tokens/s"] == pytest.approx(rates.mean())
        assert row.figures["± tokens/s"] == pytest.approx(rates.std(ddof=1))
        assert row.figures["cost of 1 M tokens"] == pytest.approx(1e3 / rates.mean())
        assert row.figures["backend"] == "reference"
    weights = load_model(writer).model.parameters().values()
    assert prompt.figures["params"] == sum(w.size for w in weights)
    assert prompt.figures["size"] == 4 * prompt.figures["params"]
    assert text.figures["outside kernels"] == 1 and text.figures["kernels ms"] == 0
    assert text.figures["choice ms"] > 0


def test_every_test_runs_behind_every_depth(writer, monkeypatch):
    monkeypatch.setenv("LCM_BACKEND", "reference")
    lengths = []

    class Watched(Decoder):
        def prefill(self, ids):
            lengths.append((self.cache.length, len(ids)))
            return super().prefill(ids)

    monkeypatch.setattr(generate, "Decoder", Watched)
    found = generate.run(str(writer), prompts=[5, 6], tokens=[2], depths=[0, 7], repetitions=1)
    assert [row.case["test"] for row in found.rows] == [
        "pp5", "pp6", "tg2", "pp5 @ d7", "pp6 @ d7", "tg2 @ d7",
    ]  # fmt: skip
    assert lengths == [
        *2 * [(0, 5)], *2 * [(0, 6)], (0, 1),
        *2 * [(0, 7), (7, 5)], *2 * [(0, 7), (7, 6)], (0, 7), (7, 1),
    ]  # fmt: skip


def test_what_does_not_fit_the_context_is_refused_before_anything_runs(writer):
    with pytest.raises(UsageError, match="tg58 @ d11 does not fit the model's context of 64"):
        generate.run(str(writer), prompts=[60], tokens=[58], depths=[0, 11])
    with pytest.raises(UsageError, match="nothing to measure"):
        generate.run(str(writer), prompts=[0], tokens=[0])


def test_the_table_of_generate_has_the_columns_of_llama_bench(writer):
    arguments = ["generate", "-m", str(writer), "-p", "3,4", "-n", "2", "-d", "5", "-r", "2"]
    done = CliRunner().invoke(command, [*arguments, "-b", "reference"], catch_exceptions=False)
    lines = [x.strip("| ").split(" | ") for x in done.stdout.splitlines() if x.startswith("|")]
    head, rule, *rows = lines
    assert head == ["model", "size", "params", "backend", "threads", "test", "t/s"]
    assert [row[5] for row in rows] == ["pp3 @ d5", "pp4 @ d5", "tg2 @ d5"]
    assert {len(line) for line in lines} == {7} and set("".join(rule)) == {"-", ":"}
    assert all(re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d", row[6]) for row in rows)


def test_kernels_are_told_from_bodies(writer, kit_library, only_backend):
    kit = native.load(kit_library, "kit")
    only_backend(dataclasses.replace(kit, kernels={"linear": kit.kernels["linear"]}))
    with no_grad():
        decoder = Decoder(load_model(writer).model)
        decoder.prefill([1, 2])
        decoder.step(3)
    bodies = [generate.is_body(call) for call in decoder.program.calls]
    assert 0 < sum(bodies) < len(bodies)  # this kit has products alone
    kernels, rest = generate.inside(decoder)
    assert kernels > 0 and rest > 0


def test_starting_is_told_by_process(writer):
    results = startup.run(str(writer), budget=0.01)
    names = [row.case["process"] for row in results.rows]
    assert names[:4] == ["python", "import lcm", "lcm --version", "first token of writer"]
    assert all(row.seconds for row in results.rows)


def test_a_process_that_fails_is_not_a_time():
    with pytest.raises(LcmError, match="failed: ValueError: no"):
        startup._process("raise ValueError('no')")()
