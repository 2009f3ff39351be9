"""Recorded programs: a replay does what the function does, on new numbers, without Python's dispatch."""

import numpy as np
import pytest

from lcm import ops
from lcm.backend import dispatch
from lcm.generate.decoder import Decoder
from lcm.models import fresh
from lcm.ops.cases import case
from lcm.program import record
from lcm.tensor import Tensor, no_grad

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


def test_nothing_is_remembered_for_gradients_in_a_program():
    x = Tensor(np.ones(3, np.float32), requires_grad=True)
    assert record(lambda: ops.gelu(x)).result.node is None


def test_a_program_that_failed_leaves_recording_off():
    with pytest.raises(ZeroDivisionError):
        record(lambda: 1 / 0)
    assert Tensor(np.ones(1, np.float32)).item() == 1
