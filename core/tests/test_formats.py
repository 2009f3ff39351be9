"""Block formats decoded, against the `gguf` package; what is packed, and what comes in pieces."""

import tracemalloc

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st

from lcm.errors import ShapeError
from lcm.formats import FORMATS, decode, encode
from lcm.formats.blocks import BLOCKS, PIECE
from lcm.formats.pieces import pack, pack_pairs, unpack, unpack_pairs

every_block = pytest.mark.parametrize("name", BLOCKS)


def bytes_of_blocks(name, count, seed=0):
    """Blocks of any bytes: scales that are infinite or not a number are among them."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, BLOCKS[name].bytes), np.uint8)


def by_gguf(raw, name):
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(raw, GGMLQuantizationType[name.upper()])


@every_block
def test_blocks_have_the_sizes_that_gguf_says(name):
    numbers, size = GGML_QUANT_SIZES[GGMLQuantizationType[name.upper()]]
    assert (FORMATS[name].numbers, FORMATS[name].storage.itemsize) == (numbers, size)


@every_block
def test_any_bytes_decode_as_gguf_decodes_them(name):
    raw = bytes_of_blocks(name, 20_000)
    ours = decode(raw.view(FORMATS[name].storage), name)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, by_gguf(raw, name), strict=True)


@every_block
@given(data=st.data())
def test_the_bytes_of_one_block_decode_as_gguf_decodes_them(name, data):
    size = BLOCKS[name].bytes
    raw = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), np.uint8)[None]
    ours = decode(raw.view(FORMATS[name].storage), name)
    np.testing.assert_array_equal(ours, by_gguf(raw, name), strict=True)


def test_every_exponent_of_mxfp4_is_the_one_of_gguf():
    raw = np.tile(bytes_of_blocks("mxfp4", 1), (256, 1))
    raw[:, 0] = np.arange(256)
    np.testing.assert_array_equal(decode(raw.view("V17"), "mxfp4"), by_gguf(raw, "mxfp4"))


@every_block
def test_an_array_of_blocks_keeps_its_axes(name):
    block = BLOCKS[name]
    flat = bytes_of_blocks(name, 2 * 3 * 4).view(FORMATS[name].storage)
    array = flat.reshape(2, 3, 4)
    numbers = decode(array, name)
    assert numbers.shape == (2, 3, 4 * block.numbers)
    np.testing.assert_array_equal(numbers.reshape(-1, block.numbers), decode(flat, name))
    np.testing.assert_array_equal(decode(array[:, ::2], name), numbers[:, ::2])
    assert decode(array[:0], name).shape == (0, 3, 4 * block.numbers)
    assert decode(array[0, 0], name).shape == (4 * block.numbers,)


@pytest.mark.parametrize("to", ["f16", "f64"])
def test_blocks_decode_into_other_types_as_their_f32_would(to):
    array = encode(np.random.default_rng(1).standard_normal((3, 256), np.float32), "q4_k")
    np.testing.assert_array_equal(
        decode(array, "q4_k", to), decode(array, "q4_k").astype(FORMATS[to].storage), strict=True
    )


@pytest.mark.parametrize("name", ["q4_0", "q6_k", "iq4_xs"])
def test_decoding_takes_little_memory_beside_its_result(name):
    array = np.zeros((64, PIECE // BLOCKS[name].numbers), FORMATS[name].storage)
    tracemalloc.start()
    numbers = decode(array, name)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert numbers.nbytes == 64 * PIECE * 4
    assert most - numbers.nbytes < 24 * PIECE


def test_rows_that_are_no_whole_blocks_are_refused():
    with pytest.raises(ShapeError, match="q4_k stores rows of whole blocks of 256, not"):
        encode(np.zeros((4, 128), np.float32), "q4_k")
    with pytest.raises(ShapeError, match="q8_0"):
        encode(np.zeros((), np.float32), "q8_0")


# What is packed is unpacked.


@pytest.mark.parametrize(
    ("bits", "run"), [(1, 1), (1, 32), (2, 1), (2, 4), (2, 32), (4, 1), (4, 64)]
)
def test_what_is_packed_is_unpacked(bits, run):
    numbers = np.random.default_rng(bits).integers(0, 2**bits, (5, 512), np.uint8)
    packed = pack(numbers, bits, run)
    assert packed.shape == (5, 512 * bits // 8)
    np.testing.assert_array_equal(unpack(packed, bits, run), numbers)


def test_the_first_numbers_of_a_run_lie_in_the_lowest_bits():
    assert unpack(np.array([[0x21, 0x43]], np.uint8), 4, 2).tolist() == [[1, 3, 2, 4]]
    assert unpack(np.array([[0x21, 0x43]], np.uint8), 4, 1).tolist() == [[1, 2, 3, 4]]


def test_pairs_of_six_bits_are_packed_without_loss():
    first, second = np.random.default_rng(0).integers(0, 64, (2, 100, 8), np.uint8)
    packed = pack_pairs(first, second)
    assert packed.shape == (100, 12)
    np.testing.assert_array_equal(unpack_pairs(packed), (first, second))
