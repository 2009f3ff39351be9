"""An arena's memory is used again, and never while something still looks at it."""

import numpy as np
import pytest

from lcm import models, ops
from lcm.backend.dispatch import use_backend
from lcm.memory import ALIGNMENT, Arena, without_hold, zeros
from lcm.program import record
from lcm.tensor import Tensor


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_is_used_again_once_the_array_is_gone():
    arena = Arena()
    x = arena.empty((3, 5), np.float32)
    where = address(x)
    del x
    assert address(arena.empty((15,), np.float32)) == where
    assert arena.size < 2 * ALIGNMENT + 64


@pytest.mark.parametrize(
    "view", [lambda x: x[1:], lambda x: x.T, lambda x: x.reshape(2, 6)[:, ::2],
             lambda x: np.broadcast_to(x[:1], (7, 4)), lambda x: x.view(np.int32)],
)  # fmt: skip
def test_a_view_keeps_the_memory(view):
    arena = Arena()
    x = arena.empty((3, 4), np.float32)
    where, looks = address(x), view(x)
    del x
    other = arena.empty((3, 4), np.float32)
    assert address(other) != where
    del looks
    assert address(arena.empty((3, 4), np.float32)) == where


def test_an_array_without_hold_is_the_same_array_and_keeps_nothing():
    arena = Arena()
    x = arena.empty((3, 4), np.float32)
    x[...] = np.arange(12).reshape(3, 4)
    turned = x.T[1:]
    same = without_hold(turned)
    np.testing.assert_array_equal(same, turned)
    assert same.strides == turned.strides
    where = address(x)
    del x, turned
    assert address(arena.empty((3, 4), np.float32)) == where


def test_an_array_of_others_stays_theirs():
    x = np.zeros(3)
    assert without_hold(x[1:]).base is x


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (1000, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.bool_, np.int64])
def test_arrays_are_dense_writable_and_aligned(shape, dtype):
    x = Arena().empty(shape, dtype)
    assert x.shape == shape and x.dtype == dtype and x.flags.c_contiguous and x.flags.writeable
    assert address(x) % ALIGNMENT == 0


def test_two_arrays_at_once_never_share_memory():
    arena, rng, alive = Arena(), np.random.default_rng(0), []
    for i in range(500):
        x = arena.empty((int(rng.integers(1, 300)),), np.int32)
        x[...] = i
        alive.append((i, x))
        if len(alive) > 20:
            alive.pop(int(rng.integers(len(alive))))
        assert all((y == j).all() for j, y in alive)
    assert arena.size < 100_000


def test_a_program_needs_little_more_memory_than_is_in_use_at_a_time():
    x = Tensor(np.ones(10_000, np.float32))

    def chain() -> Tensor:
        y = x
        for _ in range(50):
            y = y + x
        return y

    with use_backend("reference"):
        program = record(chain)
    used = {address(step.args[1]) for step in program.steps}
    assert len(program) == 50 and len(used) <= 3
    x.data[...] = 2
    assert (program().numpy() == 102).all()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_program_of_a_training_step_gives_the_same_gradients(kind):
    model = models.fresh({"model_type": kind, **SMALL[kind]}, seed=0)
    model.train()
    rng = np.random.default_rng(1)
    text = [rng.integers(0, 11, (2, 9)).astype(np.int32) for _ in range(3)]
    ids, targets = Tensor(text[0][:, :-1].copy()), Tensor(text[0][:, 1:].copy())

    def step() -> tuple[Tensor, dict[str, Tensor]]:
        loss = ops.cross_entropy(model(ids), targets)
        loss.backward()
        found = {n: p.grad for n, p in model.parameters().items()}
        for p in model.parameters().values():
            p.grad = None
        return loss, found

    program = record(step, gradients=True)
    for batch in text[1:] + text[:1]:
        ids.data[...], targets.data[...] = batch[:, :-1], batch[:, 1:]
        loss, gradients = program()
        got = loss.numpy().copy(), {n: g.numpy().copy() for n, g in gradients.items()}
        want_loss, want = step()
        assert got[0] == want_loss.numpy()
        for name, gradient in want.items():
            np.testing.assert_array_equal(got[1][name], gradient.numpy(), err_msg=name)


SMALL = {
    "gpt2": {"vocab_size": 11, "n_positions": 8, "n_embd": 12, "n_layer": 2, "n_head": 3},
    "llama": {"vocab_size": 11, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8},
}  # fmt: skip


def test_programs_that_share_an_arena_need_the_memory_of_one_and_keep_their_results():
    x, arena = Tensor(np.ones(1000, np.float32)), Arena()
    one = record(lambda: (x + 1) * 2 + 3, arena=arena)
    before = arena.size
    other = record(lambda: (x + 2) * 3 + 4, arena=arena)
    assert arena.size - before <= 2 * one.result.data.nbytes  # its result, and rounding
    assert (one.result.data == 7).all()
    x.data[...] = 2
    assert (one().data == 9).all()
    assert (other().data == 16).all()
    assert (one.result.data == 9).all()


@pytest.mark.parametrize("shape", [(), (3, 5), (100_000,)])
def test_zeros_begin_where_a_cache_line_does(shape):
    x = zeros(shape, np.float32)
    assert address(x) % ALIGNMENT == 0 and x.shape == shape and x.dtype == np.float32
    assert not x.any() and x.flags.writeable and x.flags.c_contiguous
