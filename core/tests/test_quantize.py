"""Block formats encoded: against the `gguf` package, against ggml's algorithm, and by their laws."""

import tracemalloc

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lcm.errors import FormatError, ShapeError, UsageError
from lcm.formats import FORMATS, decode, encode
from lcm.formats.blocks import BLOCKS, PIECE
from lcm.formats.quantize import ENCODERS

SMALL = ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1")
LARGE = ("q4_k", "q5_k", "q6_k")
FITTED = ("q4_0", "q4_1", "q5_0", "q5_1", *LARGE)  # heed weights

every_encoder = pytest.mark.parametrize("name", ENCODERS)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def bytes_of(array):
    return np.ascontiguousarray(array).view(np.uint8)


def again(x, name, weights=None):
    """What x is after it was stored."""
    return decode(encode(x, name, weights), name)


def error(x, y, weights=1.0):
    return np.sqrt((weights * (np.float64(x) - y) ** 2).mean())


# Numbers as weights have them, and as they should not.
rng = np.random.default_rng(3)
TENSORS = {
    "normal": 0.02 * rng.standard_normal((64, 512)),
    "laplace": 0.02 * rng.laplace(size=(64, 512)),
    "student": 0.02 * rng.standard_t(3, (64, 512)),
    "outliers": 0.02
    * rng.standard_normal((64, 512))
    * np.where(rng.random((64, 512)) < 2e-3, 20, 1),
    "sparse": rng.standard_normal((64, 512)) * (rng.random((64, 512)) < 0.05),
    "positive": rng.random((64, 512)),
    "shifted": 0.1 + 0.02 * rng.standard_normal((64, 512)),
    "small": 1e-4 * rng.standard_normal((64, 512)),
    "tiny": 1e-6 * rng.standard_normal((64, 512)),
    "vanishing": 1e-20 * rng.standard_normal((64, 512)),
    "large": 1e4 * rng.standard_normal((64, 512)),
    "zeros": np.zeros((64, 512)),
    "constants": np.repeat(np.exp(rng.uniform(-7, 2, (256, 1))) * ([[1], [-1]] * 128), 512, 1),
}
TENSORS = {name: x.astype(np.float32) for name, x in TENSORS.items()}


# Blocks of 32: ggml's own bytes.


def by_gguf(x, name):
    with np.errstate(all="ignore"):
        return gguf.quants.quantize(x, GGMLQuantizationType[name.upper()])


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("tensor", TENSORS)
def test_small_blocks_get_the_bytes_that_gguf_gives_them(name, tensor):
    x = TENSORS[tensor]
    np.testing.assert_array_equal(bytes_of(encode(x, name)), by_gguf(x, name))


half_floats = st.floats(-6e4, 6e4, width=16)  # many ties, and steps that are exact


@pytest.mark.parametrize("name", SMALL)
@given(x=arrays(np.float32, (2, 64), elements=half_floats))
def test_blocks_of_any_halves_get_the_bytes_that_gguf_gives_them(name, x):
    np.testing.assert_array_equal(bytes_of(encode(x, name)), by_gguf(x, name))


@pytest.mark.parametrize("name", ["q8_0", "q4_0"])
@given(x=arrays(np.float32, (2, 64), elements=half_floats))
def test_what_was_stored_once_is_stored_again_without_loss(name, x):
    once = again(x, name)
    np.testing.assert_array_equal(again(once, name), once)


# Blocks of 256: the algorithm of ggml's reference, rows of parts at a time; what it returns is decoded.


def divided(a, b):
    return np.divide(a, b, out=np.zeros(np.broadcast(a, b).shape), where=b != 0)


def rounded_half(x):
    return x.astype(np.float16).astype(np.float64)


def ggml_part_with_offset(x, levels, first, tries):
    """Scale and offset (below 0) of each row, by `make_qkx2_quants`: large numbers count more."""
    w = np.sqrt((x * x).mean(1, keepdims=True)) + np.abs(x)
    total, wx = sums(w), sums(w * x)
    high, low = x.max(1, keepdims=True), np.minimum(x.min(1, keepdims=True), 0)
    scale = (high - low) / levels
    least = sums(w * (scale * ggml_round(x, levels, levels, low, high) + low - x) ** 2)
    for fineness in (levels + first + 0.1 * i for i in range(tries)):
        q = ggml_round(x, fineness, levels, low, high)
        wq, wqq, wqx = sums(w * q), sums(w * q * q), sums(w * q * x)
        determinant = total * wqq - wq * wq
        s, b = (
            divided(total * wqx - wx * wq, determinant),
            divided(wqq * wx - wq * wqx, determinant),
        )
        s, b = np.where(b > 0, divided(wqx, wqq), s), np.minimum(b, 0)
        squares = sums(w * (s * q + b - x) ** 2)
        better = (squares < least) & (determinant > 0)
        scale, low = np.where(better, s, scale), np.where(better, b, low)
        least = np.where(better, squares, least)
    return scale, -low


def ggml_round(x, fineness, levels, low, high):
    return np.clip(np.rint(divided(fineness, high - low) * (x - low)), 0, levels)


def sums(x):
    return x.sum(1, keepdims=True)


def ggml_with_offsets(x, levels, first, tries):
    """`quantize_row_q4_K_ref` and `quantize_row_q5_K_ref`."""
    x = np.float64(x).reshape(-1, 32)
    stored = []
    for each in ggml_part_with_offset(x, levels, first, tries):
        each = each.reshape(-1, 8)
        largest = each.max(1, keepdims=True)
        small = np.minimum(np.rint(divided(63, largest) * each), 63)
        stored.append((rounded_half(largest / 63) * small).reshape(-1, 1))
    scale, offset = stored
    q = np.clip(np.rint(divided(x + offset, scale)), 0, levels)
    return scale * q - offset


def ggml_q6_k(x):
    """`quantize_row_q6_K_ref`, with `make_qx_quants`: a number's error counts by its square."""
    x = np.float64(x).reshape(-1, 16)
    farthest = np.take_along_axis(x, np.abs(x).argmax(1)[:, None], 1)
    scale = most = np.zeros_like(farthest)
    for fineness in (32, *(32 + 0.1 * i for i in range(-9, 10) if i)):
        q = np.clip(np.rint(divided(-fineness, farthest) * x), -32, 31)
        wqx, wqq = (x**3 * q).sum(1, keepdims=True), (x * x * q * q).sum(1, keepdims=True)
        gain = divided(wqx * wqx, wqq)
        scale = np.where(gain > most, divided(wqx, wqq), scale)
        most = np.maximum(gain, most)
    scales = scale.reshape(-1, 16)
    largest = np.take_along_axis(scales, np.abs(scales).argmax(1)[:, None], 1)
    small = np.minimum(np.rint(divided(-128, largest) * scales), 127)
    scale = (rounded_half(largest / -128) * small).reshape(-1, 1)
    return scale * np.clip(np.rint(divided(x, scale)), -32, 31)


GGML = {
    "q4_k": lambda x: ggml_with_offsets(x, 15, -1, 21),
    "q5_k": lambda x: ggml_with_offsets(x, 31, -0.5, 16),
    "q6_k": ggml_q6_k,
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("tensor", [name for name in TENSORS if name != "constants"])
def test_large_blocks_lose_no_more_than_with_ggml(name, tensor):
    x = TENSORS[tensor]
    assert error(x, again(x, name)) <= error(x, GGML[name](x).reshape(x.shape))


@pytest.mark.parametrize("name", LARGE)
def test_constants_lose_no_more_than_with_ggml(name):
    x = TENSORS["constants"]  # of any size: each counts by the share that is lost
    y = again(x, name)
    assert error(x, y, x**-2.0) <= error(x, GGML[name](x).reshape(x.shape), x**-2.0)
    large = np.abs(x) > 0.5
    assert np.abs(y / x - 1)[large].max() < 2**-11


@pytest.mark.parametrize("name", ["q4_k", "q5_k"])
@pytest.mark.parametrize("tensor", TENSORS)
def test_scales_are_never_negative(name, tensor):
    blocks = bytes_of(encode(TENSORS[tensor], name)).reshape(-1, BLOCKS[name].bytes)
    assert (np.ascontiguousarray(blocks[:, :4]).view(np.float16) >= 0).all()


@pytest.mark.parametrize("name", LARGE)
@given(seed=st.integers(0, 2**32), size=st.floats(1e-3, 1e3), tail=st.integers(1, 30))
def test_the_error_of_a_block_follows_from_its_steps(name, seed, size, tail):
    x = np.float32(size * np.random.default_rng(seed).standard_t(tail, (1, 256)))
    x = np.clip(x, -65504, 65504)
    part, levels, small = {"q4_k": (32, 15, 63), "q5_k": (32, 31, 63), "q6_k": (16, 64, 128)}[name]
    parts = x.reshape(-1, part)
    if name == "q6_k":
        steps = 2 * np.abs(parts).max(1) / levels
    else:
        steps = (np.maximum(parts.max(1), 0) - np.minimum(parts.min(1), 0)) / levels
    # Half a step by rounding, but for scales and offsets that are rounded themselves.
    scales = steps.max() / small / 2 * levels
    offsets = np.abs(x).max() / small / 2
    assert error(x, again(x, name)) <= steps.max() / 2 + scales + offsets + size * 1e-3


# Weights.


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize(("size", "middle"), [(1, 0), (1, 5), (1e-6, 0)])
def test_weights_lessen_the_weighted_error(name, size, middle):
    x, weights = size * normal(64, 512) + middle, np.random.default_rng(1).lognormal(1, 1.5, 512)
    assert error(x, again(x, name, weights), weights) < 0.96 * error(x, again(x, name), weights)


@pytest.mark.parametrize(("name", "bits"), [("q4_0", 4), ("q5_0", 5)])
def test_with_weights_no_other_scale_would_do_better(name, bits):
    x, weights = normal(64, 512), np.random.default_rng(1).lognormal(1, 1.5, 512)
    y, x, w = (
        np.float64(each).reshape(-1, 32)
        for each in (again(x, name, weights), x, np.broadcast_to(weights, x.shape))
    )
    better = sums(w * x * y) / sums(w * y * y)  # than 1, the scale that was taken
    assert np.sqrt(((better - 1) ** 2).mean()) < 0.1 / 2**bits


@pytest.mark.parametrize("name", LARGE)
def test_equal_weights_are_none(name):
    x = normal(8, 512)
    np.testing.assert_array_equal(encode(x, name, np.full(512, 7.0)), encode(x, name))


@pytest.mark.parametrize("name", FITTED)
def test_columns_that_alone_count_lose_little_and_the_others_are_still_numbers(name):
    x, weights = normal(64, 512), np.zeros(512)
    weights[::32] = 1
    y = again(x, name, weights)
    assert error(x, y, weights) < error(x, again(x, name), weights) / 2
    assert np.isfinite(y).all()


@pytest.mark.parametrize("name", FITTED)
def test_weights_that_are_all_zero_are_equal(name):
    x = normal(8, 512)
    np.testing.assert_array_equal(encode(x, name, np.zeros(512)), encode(x, name, np.ones(512)))


# Every format.


@every_encoder
def test_what_is_encoded_in_pieces_is_encoded_as_each_row_alone(name):
    width = 3 * BLOCKS[name].numbers
    x, weights = normal(2 * PIECE // width + 3, width), 1 / np.arange(1, width + 1)
    together, weighted = encode(x, name), encode(x, name, weights)
    for row in (0, PIECE // width - 1, PIECE // width, PIECE // width + 1, len(x) - 1):
        np.testing.assert_array_equal(together[row], encode(x[row], name))
        np.testing.assert_array_equal(weighted[row], encode(x[row], name, weights))


@every_encoder
def test_an_array_keeps_its_axes_whatever_its_type_and_order(name):
    x = normal(2, 3, 512)
    stored = encode(x, name)
    assert stored.dtype == FORMATS[name].storage
    assert stored.shape == (2, 3, 512 // BLOCKS[name].numbers)
    np.testing.assert_array_equal(stored[1], encode(np.asfortranarray(x[1]), name))
    np.testing.assert_array_equal(stored, encode(np.float64(x), name))
    np.testing.assert_array_equal(stored[:, 1], encode(x[:, 1], name))
    assert encode(x[:0], name).shape == (0, *stored.shape[1:])
    assert encode(x[:0], name, np.ones(512)).shape == (0, *stored.shape[1:])


@every_encoder
def test_encoding_takes_little_memory_beside_its_result(name):
    x = normal(32, PIECE)
    tracemalloc.start()
    stored = encode(x, name)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most - stored.nbytes < 60 * PIECE < x.nbytes / 2


@every_encoder
@pytest.mark.parametrize("weights", [None, np.arange(512.0)])
def test_zeros_stay_zeros(name, weights):
    assert not again(np.zeros((4, 512), np.float32), name, weights).any()


@every_encoder
@pytest.mark.parametrize("tensor", TENSORS)
def test_every_tensor_comes_back_nearly(name, tensor):
    x = TENSORS[tensor]
    # The smallest halves are 6e-8 apart, and q6_k takes up to 128 * 32 times one.
    assert np.abs(again(x, name) - x).max() <= np.abs(x).max() / 6 + 3e-4


@every_encoder
@given(x=arrays(np.float32, (1, 256), elements=st.floats(-65504, 65504, width=32)))
def test_whatever_finite_numbers_come_finite_ones_are_stored(name, x):
    for weights in (None, np.arange(256.0)):
        y = again(x, name, weights)
        assert np.abs(y - x).max() <= 1.1 * (x.max(initial=0) - x.min(initial=0)) + 1e-3


@every_encoder
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e5, -1e300])
def test_numbers_that_cannot_be_stored_are_refused_with_a_way_out(name, bad):
    x = np.zeros((300, 1024))
    x[299, 1000] = bad
    with pytest.raises(
        FormatError, match=f"{name} stores finite numbers up to 65504, but"
    ) as caught:
        encode(x, name)
    assert "store it as f32" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_format_that_is_only_read_is_refused_by_name():
    with pytest.raises(
        FormatError, match="iq4_xs can be read, but not written; what can be: q8_0, "
    ):
        encode(np.zeros((1, 256), np.float32), "iq4_xs")


@pytest.mark.parametrize(
    ("weights", "kind", "said"),
    [
        (
            np.ones(255),
            ShapeError,
            r"weights need shape \(256,\), one for each column, but have \(255,\)",
        ),
        (np.ones((2, 256)), ShapeError, r"but have \(2, 256\)"),
        (np.full(256, -1.0), UsageError, "finite and not negative, but they reach from -1 to 0"),
        (np.full(256, np.nan), UsageError, "reach from nan to nan"),
        (np.full(256, np.inf), UsageError, "reach from inf to inf"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(weights, kind, said):
    with pytest.raises(kind, match=said):
        encode(np.zeros((2, 256), np.float32), "q4_k", weights)
