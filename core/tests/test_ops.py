"""Ops: what a call checks, what C is told, and that the body in pieces is the body."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lcm import ops
from lcm.backend.native import struct_of
from lcm.errors import FormatError, ShapeError, UsageError
from lcm.formats import decode, encode
from lcm.formats.blocks import BLOCKS
from lcm.ops.cases import case
from lcm.ops.header import fields, gradient_fields, header
from lcm.recording import no_grad
from lcm.tensor import Tensor

HEADER = Path(ops.__file__).parents[1] / "include" / "lcm" / "ops.h"


def f32(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(0).standard_normal(shape, np.float32))


def i32(*numbers: int) -> Tensor:
    return Tensor(np.array(numbers, np.int32))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.rms_norm(f32(2, 8), f32(7), eps=1e-5), ShapeError,
         "rms_norm: weight has width=7, but x has width=8"),
        (lambda: ops.rms_norm(f32(8), f32(1, 8), eps=1e-5), ShapeError,
         "rms_norm: weight needs shape [width], but has (1, 8)"),
        (lambda: ops.linear(f32(2, 3), f32(5, 4)), ShapeError,
         "linear: weight has inputs=4, but x has inputs=3"),
        (lambda: ops.linear(i32(1, 2), f32(5, 2)), FormatError, "linear: x needs f32, but has i32"),
        (lambda: ops.embedding(f32(4, 2), i32(0, 4)), ShapeError,
         "embedding: ids must lie in 0 … 3 (vocabulary - 1), but reaches from 0 to 4"),
        (lambda: ops.embedding(f32(4, 2), i32(-1)), ShapeError,
         "embedding: ids must lie in 0 … 3 (vocabulary - 1), but reaches from -1 to -1"),
        (lambda: ops.attention(f32(1, 1, 3, 4), f32(1, 1, 2, 4), f32(1, 1, 2, 4), i32(0), scale=1),
         ShapeError, "attention: needs heads % kv_heads == 0, but has heads=3, kv_heads=2"),
        (lambda: ops.rms_norm(f32(8), f32(8)), UsageError, "rms_norm: needs eps, a float"),
        (lambda: ops.gelu(f32(8), exact=True), UsageError,
         "gelu: no argument 'exact'; there are: x, tanh"),
        (lambda: ops.gelu(), UsageError, "gelu: needs x[*count]"),
        (lambda: ops.silu(f32(8), f32(8)), UsageError, "silu: takes 1 tensors, got 2"),
        (lambda: ops.cache_write(f32(1, 4, 1, 2), f32(1, 2, 1, 2), i32(3)), ShapeError,
         "cache_write: start must lie in 0 … 2 (capacity - rows + 1 - 1), but reaches from 3 to 3"),
    ],
)  # fmt: skip
def test_a_call_that_does_not_fit_says_what_where_and_how(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_the_checked_in_header_is_the_generated_one():
    assert HEADER.read_text(encoding="utf-8") == header(), "run: python -m lcm.ops.header > …/ops.h"


def test_c_and_ctypes_lay_every_struct_out_alike(tmp_path):
    """The compiler prints the offset of every member; ctypes must agree."""
    lines, want = [], []
    for op in ops.CATALOGUE.values():
        kinds = [("", False), ("_grad", True)] if op.signature.has_gradient else [("", False)]
        for suffix, gradient in kinds:
            name = f"lcm_{op.name}{suffix}_args"
            struct = struct_of(op, gradient)
            members = ["size", *(m.name for m in (gradient_fields if gradient else fields)(op))]
            lines += [f'P("%zu\\n", offsetof({name}, {m}));' for m in members]
            lines.append(f'P("%zu\\n", sizeof({name}));')
            want += [getattr(struct, m).offset for m in members] + [ctypes.sizeof(struct)]
    source = tmp_path / "offsets.c"
    source.write_text(
        "#include <lcm/ops.h>\n#include <stddef.h>\n#include <stdio.h>\n#define P printf\n"
        f"int main(void) {{ {' '.join(lines)} return 0; }}\n"
    )
    program = tmp_path / "offsets"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{HEADER.parents[1]}"]
    subprocess.run(["cc", *flags, str(source), "-o", str(program)], check=True)
    printed = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    assert [int(line) for line in printed.split()] == want


def test_every_op_names_the_kernels_that_a_library_may_export():
    blocks = [f"linear__{format}" for format in BLOCKS]
    wanted = ("linear", "linear__bf16", "linear__f16", *blocks, "linear_grad")
    assert ops.linear.signature.kernels == wanted
    assert "linear_int8" not in ops.linear_int8.signature.kernels
    assert ops.adamw_step.signature.kernels == ("adamw_step",)


def test_an_op_without_a_gradient_is_not_trained_through_silently():
    weight = Tensor(encode(np.ones((3, 32), np.float32), "q8_0"), "q8_0")
    x = Tensor(np.ones((1, 32), np.float32), requires_grad=True)
    with pytest.raises(UsageError, match="linear_int8 has no gradient"):
        ops.linear_int8(x, weight)
    with no_grad():
        np.testing.assert_allclose(ops.linear_int8(x, weight).data, 32, rtol=1e-3)


@pytest.mark.parametrize("name", [n for n, op in ops.CATALOGUE.items() if op.split])
def test_the_body_in_pieces_gives_what_it_gives_whole(name, monkeypatch):
    op = ops.CATALOGUE[name]
    for seed in range(3):
        whole, pieces = (case(op, np.random.default_rng(seed)) for _ in range(2))
        expected = op.run_body(whole)
        with monkeypatch.context() as patch:
            patch.setattr("lcm.ops.split.PIECE", 1)
            for _ in range(2):  # recorded, then replayed
                found = op.run_body(pieces)
                if op.signature.output is None:
                    break
        np.testing.assert_allclose(found.data, expected.data, rtol=1e-6, atol=1e-6)
        for changed in op.signature.changed:
            np.testing.assert_allclose(
                pieces.tensors[changed].data, whole.tensors[changed].data, rtol=1e-6, atol=1e-6
            )


def test_pieces_keep_their_programs_apart_by_shape_and_scalars(monkeypatch):
    monkeypatch.setattr("lcm.ops.split.PIECE", 4)
    x = f32(10, 4)
    for eps in (1e-5, 1.0, 1e-5):
        want = x.data / np.sqrt((x.data**2).mean(-1, keepdims=True) + eps)
        np.testing.assert_allclose(ops.rms_norm(x, Tensor(np.ones(4, np.float32)), eps=eps).data,
                                   want, rtol=1e-5)  # fmt: skip


def test_ops_take_any_number_of_leading_axes():
    x, weight = f32(2, 3, 4), f32(5, 4)
    assert ops.linear(x, weight).shape == (2, 3, 5)
    assert ops.linear(f32(4), weight).shape == (5,)
    np.testing.assert_array_equal(
        ops.linear(x, weight).data.reshape(6, 5), ops.linear(x.reshape(6, 4), weight).data
    )


@pytest.mark.parametrize("empty", [(0, 4), (3, 0, 4)])
def test_ops_take_no_rows_at_all(empty):
    x = Tensor(np.zeros(empty, np.float32))
    assert ops.linear(x, f32(5, 4)).shape == (*empty[:-1], 5)
    assert ops.softmax(x).shape == empty
    assert ops.gelu(x).shape == empty
    assert ops.sum_squares(x).item() == 0


@pytest.mark.parametrize("window", [0, 3])
def test_self_attention_is_attention_of_the_parts_of_one_array(window):
    qkv = f32(2, 5, 3, 4, 6)
    q, k, v = (Tensor(np.ascontiguousarray(qkv.data[:, :, i])) for i in range(3))
    of_parts = ops.attention(q, k, v, i32(0, 0), scale=0.4, window=window)
    whole = ops.self_attention(qkv, scale=0.4, window=window)
    assert np.array_equal(whole.data, of_parts.data)


@pytest.mark.parametrize("format", ["bf16", "f16"])
def test_linear_and_embedding_decode_half_weights(format):
    numbers = f32(5, 4).data
    weight = Tensor(encode(numbers, format), format)
    exact = Tensor(decode(weight.data, format))
    x = f32(3, 4)
    np.testing.assert_array_equal(ops.linear(x, weight).data, ops.linear(x, exact).data)
    np.testing.assert_array_equal(ops.embedding(weight, i32(4, 0)).data, exact.data[[4, 0]])


def test_bf16_rounds_to_the_nearest_even_and_keeps_nan():
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7FC00001, 0x7F7FFFFF], np.uint32)
    found = encode(bits.view(np.float32), "bf16")
    assert [hex(b) for b in found] == ["0x3f80", "0x3f82", "0x3f81", "0x7fc0", "0x7f80"]
    assert np.isnan(decode(encode(np.array([np.nan], np.float32), "bf16"), "bf16")).all()


def test_all_targets_ignored_is_a_loss_of_zero_and_no_gradient():
    x = Tensor(f32(2, 3).data, requires_grad=True)
    loss = ops.cross_entropy(x, i32(-100, -100))
    loss.backward()
    assert loss.item() == 0
    assert not x.grad.data.any()


def test_optimiser_steps_change_their_arguments_in_place():
    param, m, v = (Tensor(np.ones(3, np.float32)) for _ in range(3))
    before = param.address
    ops.adamw_step(param, m, v, f32(3), lr=0.1, beta1=0.9, beta2=0.9, eps=1e-8, weight_decay=0,
                   step=1)  # fmt: skip
    assert param.address == before
    assert (param.data != 1).all()
    assert (m.data != 1).all()


def test_what_is_changed_in_place_must_be_dense_and_writable():
    """A copy would be changed instead, or a write-protected file's memory written."""
    strided = Tensor(np.ones((3, 2), np.float32)[:, 0])
    locked = Tensor(np.ones(3, np.float32))
    locked.data.flags.writeable = False
    for param in (strided, locked):
        with pytest.raises(
            FormatError, match="param is changed in place: it needs dense, writable"
        ):
            ops.sgd_step(param, f32(3), f32(3), lr=1, momentum=0, weight_decay=0)


def test_erf_agrees_with_the_c_library_to_two_ulp():
    import math

    from lcm.primitives import erf

    x = np.concatenate([np.linspace(-7, 7, 4001), [0.0, -0.0, np.inf, -np.inf]])
    want = np.array([math.erf(v) for v in x])
    np.testing.assert_allclose(erf(x), want, rtol=5e-16, atol=0)
    assert np.isnan(erf(np.array([np.nan]))).all()
