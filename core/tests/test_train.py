"""Training: the loop learns, resumes to the bit, stops when it has to, and names what went wrong."""

import json
import math

import numpy as np
import pytest

from lcm import models, ops
from lcm.errors import DataError, FileError, TrainingError, UsageError
from lcm.evaluation.perplexity import evaluate
from lcm.evaluation.text import as_split
from lcm.files.safetensors import open_safetensors
from lcm.tensor import Tensor
from lcm.train import checkpoint, report, setup
from lcm.train.gradients import Gradients
from lcm.train.optimizers import SGD, AdamW, make
from lcm.train.plan import Plan
from lcm.train.schedule import SHAPES, learning_rate
from lcm.train.setup import Shape
from lcm.train.split import IGNORE
from lcm.train.trainer import Evaluated, Finished, Sample, Saved, Step

SHAPE = Shape(layers=1, width=16, heads=2, key_heads=1, hidden=24, vocabulary=300)
PLAN = Plan(steps=6, batch=2, context=16, warmup=2, lr=1e-2, evaluate_every=3, evaluate_batches=2,
            save_every=3)  # fmt: skip

SMALL = {"model_type": "llama", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24,
         "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
         "max_position_embeddings": 16}  # fmt: skip


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A folder of small, different source files."""
    monkeypatch.setenv("LCM_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "code"
    folder.mkdir()
    for i in range(12):
        body = "\n".join(f"    value_{j} = {i} * {j} + offset" for j in range(10))
        (folder / f"file{i}.py").write_text(
            f"def function_{i}(offset):\n{body}\n    return value_0\n"
        )
    return [str(folder)]


def run(trainer):
    return list(trainer.run())


def of(kind, events):
    return [e for e in events if isinstance(e, kind)]


def weights(path):
    file = open_safetensors(path / "model.safetensors")
    return {name: np.array(file[name]) for name in file}


def test_a_run_learns_saves_and_says_what_it_did(code, tmp_path):
    plan = Plan(
        **vars(PLAN) | {"steps": 40, "evaluate_every": 20, "save_every": 20, "sample_every": 40}
    )
    events = run(setup.start(tmp_path / "run", code, plan, SHAPE))
    steps = of(Step, events)
    assert [s.step for s in steps] == list(range(1, 41))
    assert steps[-1].loss < steps[0].loss - 1
    assert [e.step for e in of(Evaluated, events)] == [20, 40]
    assert [e.step for e in of(Saved, events)] == [20, 40]
    assert of(Sample, events)[0].prompt == "def "
    assert of(Finished, events)[0].reason == "all 40 steps are done"
    rows = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [r["step"] for r in rows if "loss" in r] == list(range(1, 41))
    assert (tmp_path / "run" / "best" / "tokenizer.json").exists()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(code, tmp_path, optimizer, architecture):
    plan = Plan(**vars(PLAN) | {"optimizer": optimizer, "accumulate": 2})
    shape = Shape(**vars(SHAPE) | {"architecture": architecture})
    run(setup.start(tmp_path / "whole", code, plan, shape))
    trainer = setup.start(tmp_path / "parts", code, plan, shape)
    for event in trainer.run():
        if isinstance(event, Saved):
            break
    run(setup.resume(tmp_path / "parts"))
    whole, parts = (checkpoint.latest(tmp_path / name) for name in ("whole", "parts"))
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    states = [json.loads((p / "state.json").read_text()) | {"seconds": 0} for p in (whole, parts)]
    assert states[0] == states[1]


def test_accumulated_batches_are_one_large_batch(code, tmp_path):
    for name, batch, accumulate in (("large", 4, 1), ("small", 1, 4)):
        plan = Plan(**vars(PLAN) | {"batch": batch, "accumulate": accumulate, "optimizer": "sgd"})
        run(setup.start(tmp_path / name, code, plan, SHAPE))
    large, small = (weights(checkpoint.latest(tmp_path / n)) for n in ("large", "small"))
    for name in large:
        np.testing.assert_allclose(large[name], small[name], atol=2e-6)


def test_the_first_window_of_training_is_never_held_out(code, tmp_path):
    data = setup.start(tmp_path / "run", code, PLAN, SHAPE).dataset
    held_out = {d.name for d in data.validation.documents}
    assert held_out
    assert not held_out & set(data.train.sources(0, 8, 16, 0))


def test_gradients_that_explode_stop_the_run_and_name_step_and_files(code, tmp_path):
    plan = Plan(**vars(PLAN) | {"lr": 1e30, "warmup": 0, "clip": 0, "steps": 50, "spike": 0})
    trainer = setup.start(tmp_path / "run", code, plan, SHAPE)
    with pytest.raises(
        TrainingError, match=r"step \d+: .*(not a number|not finite); .*file\d+\.py"
    ):
        run(trainer)


def test_a_jump_of_the_loss_stops_the_run_before_the_step(code, tmp_path):
    trainer = setup.start(tmp_path / "run", code, Plan(**vars(PLAN) | {"spike": 2.0}), SHAPE)
    events = trainer.run()
    next(events)
    before = {n: p.data.copy() for n, p in trainer.model.parameters().items()}
    trainer.state.running_loss = 0.5
    with pytest.raises(
        TrainingError, match=r"step 2: the loss jumped to \d\.\d\d, from about 0\.50"
    ):
        next(events)
    for name, parameter in trainer.model.parameters().items():
        np.testing.assert_array_equal(parameter.data, before[name])


def test_patience_ends_a_run_that_does_not_improve(code, tmp_path):
    plan = Plan(**vars(PLAN) | {"lr": 0.0, "evaluate_every": 1, "patience": 2, "steps": 50})
    events = run(setup.start(tmp_path / "run", code, plan, SHAPE))
    assert of(Step, events)[-1].step == 3
    assert "has not improved for 2 evaluations" in of(Finished, events)[0].reason
    assert isinstance(events[-2], Saved)


def test_minutes_end_a_run_with_a_checkpoint(code, tmp_path):
    events = run(setup.start(tmp_path / "run", code, Plan(**vars(PLAN) | {"minutes": 1e-6}), SHAPE))
    assert of(Step, events)[-1].step == 1
    assert checkpoint.latest(tmp_path / "run").name == "step-0000001"


def test_old_checkpoints_are_removed(code, tmp_path):
    run(
        setup.start(
            tmp_path / "run", code, Plan(**vars(PLAN) | {"save_every": 1, "keep": 2}), SHAPE
        )
    )
    assert [p.name for p in sorted((tmp_path / "run" / "checkpoints").iterdir())] == [
        "step-0000005", "step-0000006",
    ]  # fmt: skip


def test_a_run_is_not_begun_over_another(code, tmp_path):
    run(setup.start(tmp_path / "run", code, PLAN, SHAPE))
    with pytest.raises(UsageError, match="holds a run already: lcm train --resume"):
        setup.start(tmp_path / "run", code, PLAN, SHAPE)


def test_two_at_once_in_one_folder_are_refused_and_the_first_goes_on(code, tmp_path):
    first = setup.start(tmp_path / "run", code, PLAN, SHAPE)
    second = setup.start(tmp_path / "run", code, Plan(**vars(PLAN) | {"steps": 99}), SHAPE)
    events = first.run()
    next(events)
    with pytest.raises(UsageError, match="another lcm train is at work there"):
        run(second)
    assert len(of(Step, list(events))) == PLAN.steps - 1
    assert Plan.load(tmp_path / "run" / "train.json")[0] == PLAN


def test_a_run_begun_anew_forgets_the_metrics_of_one_without_a_checkpoint(code, tmp_path):
    for _ in range(2):
        events = setup.start(tmp_path / "run", code, PLAN, SHAPE).run()
        next(events)
        events.close()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


def test_other_files_than_the_runs_own_are_refused(code, tmp_path):
    run(setup.start(tmp_path / "run", code, PLAN, SHAPE))
    (tmp_path / "code" / "new.py").write_text("import this\n" * 20)
    with pytest.raises(TrainingError, match="was trained on other data"):
        setup.resume(tmp_path / "run")


@pytest.mark.parametrize("name", ["state.json", "optimizer.safetensors", "model.safetensors"])
def test_a_damaged_checkpoint_is_named(code, tmp_path, name):
    run(setup.start(tmp_path / "run", code, PLAN, SHAPE))
    path = checkpoint.latest(tmp_path / "run") / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FileError, match=name):
        setup.resume(tmp_path / "run")


def test_fine_tuning_starts_from_the_models_weights(code, tmp_path):
    run(setup.start(tmp_path / "base", code, PLAN, SHAPE))
    plan = Plan(**vars(PLAN) | {"lr": 0.0, "weight_decay": 0.0, "steps": 1})
    tuned = setup.start(tmp_path / "tuned", code, plan, SHAPE, base=str(tmp_path / "base"))
    run(tuned)
    base = weights(tmp_path / "base" / "best")
    for name, array in weights(checkpoint.latest(tmp_path / "tuned")).items():
        np.testing.assert_array_equal(array, base[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": 100_000}, "needs 100001"),
        ({"steps": 0}, "steps must be 1 or more, not 0"),
        ({"lr": -1.0}, "lr must be 0 or more"),
        ({"optimizer": "lion"}, "no optimiser 'lion'; there are: adamw, sgd"),
        ({"schedule": "square"}, "no schedule 'square'; there are:"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(code, tmp_path, change, message):
    with pytest.raises((UsageError, DataError), match=message):
        run(setup.start(tmp_path / "run", code, Plan(**vars(PLAN) | change), SHAPE))


def test_a_schedule_rises_to_its_peak_and_ends_at_its_final_share():
    for shape in SHAPES:
        rates = [
            learning_rate(s, steps=100, peak=2.0, warmup=10, shape=shape, final=0.1)
            for s in range(1, 101)
        ]
        assert rates[9] == 2.0 == max(rates)
        assert rates[:10] == pytest.approx([0.2 * s for s in range(1, 11)])
        assert rates[-1] == pytest.approx(2.0 if shape == "constant" else 0.2)
        assert all(a >= b for a, b in zip(rates[9:], rates[10:], strict=False))
    assert learning_rate(
        55, steps=100, peak=1, warmup=10, shape="cosine", final=0
    ) == pytest.approx(0.5)


def test_only_matrices_decay():
    matrix, vector = (Tensor(np.ones(s, np.float32)) for s in ((2, 2), (2,)))
    for optimizer in (AdamW, SGD):
        made = optimizer({"matrix": matrix, "vector": vector}, weight_decay=0.5)
        for p in (matrix, vector):
            p.data[...] = 1
            p.grad = Tensor(np.zeros(p.shape, np.float32))
        made.step(lr=0.1)
        assert (matrix.data == np.float32(0.95)).all()
        assert (vector.data == 1).all()


def test_the_gradient_norm_is_that_of_all_gradients_together():
    a, b = Tensor(np.ones(2, np.float32)), Tensor(np.ones(3, np.float32))
    a.grad, b.grad = Tensor(np.full(2, 3.0, np.float32)), Tensor(np.full(3, 4.0, np.float32))
    norm = AdamW({"a": a, "b": b}).gradient_norm()
    assert norm == pytest.approx(math.sqrt(2 * 9 + 3 * 16))


@pytest.mark.parametrize("tokens", [1, 16, 40, 1000])
def test_a_batch_in_parts_has_the_loss_and_the_gradients_of_the_whole(tokens):
    model = models.fresh(SMALL, seed=0)
    model.train()
    rng = np.random.default_rng(0)
    ids, targets = rng.integers(0, 50, (2, 5, 16)).astype(np.int32)
    targets[1, 3:] = targets[4] = IGNORE
    loss = ops.cross_entropy(model(Tensor(ids)), Tensor(targets), ignore_index=IGNORE)
    loss.backward()
    whole = {n: p.grad.data for n, p in model.parameters().items()}
    AdamW(model.parameters())
    gradients = Gradients(model, tokens=tokens)
    for _ in range(2):  # recorded, then replayed
        for p in model.parameters().values():
            p.grad = None
        assert gradients.add(ids, targets) == pytest.approx(loss.item(), rel=1e-6)
        for name, p in model.parameters().items():
            np.testing.assert_allclose(p.grad.data, whole[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_ids_that_the_model_has_not_never_reach_a_program():
    gradients = Gradients(models.fresh(SMALL, seed=0))
    ids = np.zeros((1, 4), np.int32)
    for bad in (-1, 50):
        with pytest.raises(DataError, match=r"inputs: ids reach from .* the model's are 0 … 49"):
            gradients.add(np.full_like(ids, bad), ids)
        with pytest.raises(DataError, match=r"targets: ids reach"):
            gradients.add(ids, np.full_like(ids, bad))


def test_an_optimiser_of_another_model_is_refused():
    made = make("adamw", {"a": Tensor(np.ones(2, np.float32))}, weight_decay=0)
    with pytest.raises(FileError, match=r"here: the optimiser's 'm\.a' is missing"):
        made.restore({"m.a": np.ones(3)}, 1, "here")


def test_evaluation_is_the_mean_over_all_tokens_and_their_bytes(code, tmp_path):
    trainer = setup.start(tmp_path / "run", code, PLAN, SHAPE)
    split = as_split(setup.corpus_of(code), trainer.tokenizer)
    found = evaluate(
        trainer.model, split.evaluation_batches(3, 16), trainer.tokenizer.byte_lengths()
    )
    assert found.tokens == split.tokens - 1
    assert found.bytes == sum(d.size for d in setup.corpus_of(code).documents)
    assert found.loss == pytest.approx(math.log(trainer.model.vocabulary), rel=0.05)
    assert found.bits_per_byte == pytest.approx(
        found.loss * found.tokens / math.log(2) / found.bytes
    )
    empty = (np.zeros((1, 4), np.int32), np.full((1, 4), IGNORE, np.int32))
    with pytest.raises(DataError, match="nothing to evaluate on"):
        evaluate(trainer.model, [empty], trainer.tokenizer.byte_lengths())


def test_metrics_cut_off_by_a_kill_can_be_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "loss": 2.0}\n{"step": 1, "validation_loss": 1.5}\n{"step": 2, "lo'
    )
    assert report.read_metrics(path) == ([(1, 2.0)], [(1, 1.5)])
    path.write_text('{"step": 1, "lo\n{"step": 2, "loss": 2.0}\n')
    with pytest.raises(FileError, match="line 1 is not a metric"):
        report.read_metrics(path)


def test_the_curve_shows_the_ends_of_its_axes():
    text = report.curve([(s, 5.0 - s / 100) for s in range(1, 301)])
    assert "step 1 … 300" in text
    assert "█" in text
    assert max(len(line) for line in text.splitlines()) <= 70
