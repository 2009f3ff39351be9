"""Recorded programs: a replay does what the function does, on new numbers, without Python's dispatch."""

import numpy as np
import pytest

from lcm import ops
from lcm.backend import dispatch, native
from lcm.errors import KernelError
from lcm.generate.decoder import Decoder
from lcm.models import fresh
from lcm.ops.cases import case
from lcm.program import Program, record
from lcm.recording import no_grad
from lcm.tensor import Tensor

LLAMA = {"model_type": "llama", "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40,
         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "max_position_embeddings": 300}  # fmt: skip
GPT2 = {"model_type": "gpt2", "vocab_size": 61, "n_positions": 300, "n_embd": 24, "n_layer": 2,
        "n_head": 4}  # fmt: skip


@pytest.mark.parametrize("backend", ["", "reference"])
@pytest.mark.parametrize("name", ops.CATALOGUE)
def test_every_op_replays_on_new_numbers(name, backend):
    op = ops.CATALOGUE[name]
    first, second, fresh_copy = (
        case(op, np.random.default_rng(s), shape=_shape(op)) for s in (1, 2, 2)
    )
    scalars = first.scalars
    program = record(lambda: op(**first.tensors, **scalars, backend=backend))
    for tensor, new in zip(first.tensors.values(), second.tensors.values(), strict=True):
        tensor.data[...] = new.data
    found = program()
    want = op(**fresh_copy.tensors, **scalars, backend=backend)
    np.testing.assert_allclose(found.data, want.data, rtol=1e-6, atol=1e-6)
    for changed in op.signature.changed:
        np.testing.assert_allclose(
            first.tensors[changed].data, fresh_copy.tensors[changed].data, rtol=1e-6, atol=1e-6
        )


def _shape(op):
    return case(op, np.random.default_rng(5)).sizes


@pytest.mark.parametrize("config", [LLAMA, GPT2])
def test_a_replayed_token_asks_the_dispatcher_nothing(config):
    decoder = Decoder(fresh(config, seed=0))
    decoder.prefill([1, 2, 3])
    decoder.step(4)
    before = dispatch.ran()
    for token in range(5):
        decoder.step(token)
    assert dispatch.ran() == before


@pytest.mark.parametrize("config", [LLAMA, GPT2])
def test_decoding_with_programs_equals_running_the_whole_text(config):
    """Past 128 positions the cache grows and the program is recorded anew."""
    model = fresh(config, seed=0)
    ids = np.random.default_rng(0).integers(0, 61, 140).tolist()
    decoder = Decoder(model)
    decoder.prefill(ids[:120])
    for count in range(120, 140):
        logits = decoder.step(ids[count])
        with no_grad():
            whole = model(Tensor(np.array([ids[: count + 1]], np.int32))).data[0, -1]
        np.testing.assert_allclose(logits, whole, rtol=1e-4, atol=1e-5)


# Kernels that write how many kernels of their library ran before; `gelu` fails at its third time.
COUNTING = """
#include <lcm/ops.h>
#include <lcm/simd/own.h>
EXPORT int32_t lcm_abi(void) { return LCM_ABI; }
static int64_t ran;
EXPORT int32_t lcm_silu(const lcm_silu_args *a) { a->out[0] = (float)ran++; return LCM_OK; }
EXPORT int32_t lcm_gelu(const lcm_gelu_args *a) {
  a->out[0] = (float)ran++;
  return ran < 6 ? LCM_OK : LCM_UNSUPPORTED;
}
EXPORT const char *lcm_error(void) { return "NAME"; }
"""
RUNNER = "#include <lcm/simd/run.h>\n"


@pytest.fixture
def counting(compile_kit):
    """Calls of a new library: what the kernels of a symbol write, and the call."""

    def counting(name, more=""):
        backend = native.load(compile_kit(COUNTING.replace("NAME", name) + more), name)

        def call(symbol):
            out = np.full(1, np.nan, np.float32)
            return out, backend.kernels[symbol]({"out": out, "x": out, "count": 1, "tanh": False})

        return call

    return counting


def test_neighbouring_kernels_of_any_libraries_are_one_call(counting):
    a, b = counting("a"), counting("b", RUNNER)
    written = []
    native_calls = [a("silu"), b("silu"), a("gelu"), a("silu"), b("gelu"), a("silu")]
    calls = [call for _, call in native_calls]
    calls.insert(4, lambda: written.extend(float(out[0]) for out, _ in native_calls))
    program = Program(calls, "the result")
    assert len(program) == 7 and len(program.calls) == 3
    assert program() == "the result"
    np.testing.assert_array_equal(written, [0, 0, 1, 2, np.nan, np.nan])
    assert [float(out[0]) for out, _ in native_calls] == [0, 0, 1, 2, 1, 3]


def test_a_program_without_a_runner_runs_one_kernel_after_the_other(counting):
    a = counting("a")
    calls = [a("silu") for _ in range(3)]
    Program([call for _, call in calls], None)()
    assert [float(out[0]) for out, _ in calls] == [0, 1, 2]


@pytest.mark.parametrize("runner", ["", RUNNER])
def test_the_kernel_of_a_program_that_fails_is_named_and_is_the_last_that_runs(counting, runner):
    a, b = counting("a", runner), counting("b")
    calls = [a("gelu"), *(b("gelu") for _ in range(8)), a("silu")]
    program = Program([call for _, call in calls], None)
    with pytest.raises(KernelError, match="lcm_gelu failed: it does not support .*: b$"):
        program()
    ran = [float(out[0]) for out, _ in calls]
    np.testing.assert_array_equal(ran, [0, 0, 1, 2, 3, 4, 5, *[np.nan] * 3])


def test_nothing_is_remembered_for_gradients_in_a_program():
    x = Tensor(np.ones(3, np.float32), requires_grad=True)
    assert record(lambda: ops.gelu(x)).result.node is None


def test_a_program_that_failed_leaves_recording_off():
    with pytest.raises(ZeroDivisionError):
        record(lambda: 1 / 0)
    assert Tensor(np.ones(1, np.float32)).item() == 1
