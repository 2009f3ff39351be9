"""Interleaved formats: the same bytes in another order, and the order that the kernels count on."""

import numpy as np
import pytest

from lcm import formats, ops
from lcm.errors import ShapeError
from lcm.formats.interleaved import FIELDS, INTERLEAVED, ROWS
from lcm.recording import no_grad
from lcm.tensor import Tensor


def blocks(name, rows, columns):
    storage = formats.FORMATS[name].storage
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (rows, columns * storage.itemsize), np.uint8).view(storage)


@pytest.mark.parametrize("name", INTERLEAVED)
def test_separated_again_the_blocks_are_the_same(name):
    stored = blocks(INTERLEAVED[name].of, 48, 5)
    made = formats.interleave(stored, name)
    assert made.nbytes == stored.nbytes and made.shape == (3, 5)
    np.testing.assert_array_equal(formats.separate(made, name), stored)


@pytest.mark.parametrize("name", INTERLEAVED)
def test_the_numbers_are_those_of_the_rows(name):
    stored = blocks(INTERLEAVED[name].of, 32, 3)
    with np.errstate(all="ignore"):
        wanted = formats.decode(stored, INTERLEAVED[name].of)
        found = formats.decode(formats.interleave(stored, name), name)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("name", FIELDS)
def test_the_fields_are_the_whole_block(name):
    covered = sorted((first, end) for first, end, _ in FIELDS[name])
    assert covered[0][0] == 0 and covered[-1][1] == formats.FORMATS[name].storage.itemsize
    assert all(a[1] == b[0] for a, b in zip(covered, covered[1:], strict=False))
    assert all((end - first) % unit == 0 for first, end, unit in FIELDS[name])


def test_each_units_rows_lie_side_by_side():
    """Of q8_0: 16 scales, then four numbers of each row, then the next four of each."""
    stored = blocks("q8_0", ROWS, 1)
    apart = stored.view(np.uint8).reshape(ROWS, 34)
    together = formats.interleave(stored, "q8_0_x16").view(np.uint8).reshape(-1)
    for row in range(ROWS):
        assert together[2 * row : 2 * row + 2].tolist() == apart[row, :2].tolist()
        for unit in range(8):
            at = 2 * ROWS + 4 * (ROWS * unit + row)
            assert together[at : at + 4].tolist() == apart[row, 2 + 4 * unit :][:4].tolist()


def test_rows_that_fill_no_group_are_refused():
    with pytest.raises(ShapeError, match="q8_0_x16 stores 16 rows together"):
        formats.interleave(blocks("q8_0", 17, 1), "q8_0_x16")


def test_products_with_rounded_numbers_are_those_of_whole_numbers():
    """What `linear_int8` says in words, computed with integers."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 64), np.float32)
    x[1, :32] = 0
    weight = formats.encode(rng.standard_normal((5, 64), np.float32), "q8_0")
    raw = weight.view(np.uint8).reshape(5, 2, 34)
    scale = raw[..., :2].copy().view(np.float16)[..., 0].astype(np.float64)
    largest = np.abs(x.reshape(3, 2, 32)).max(-1) / np.float32(127)
    with np.errstate(all="ignore"):
        rounded = np.nan_to_num(np.rint(x.reshape(3, 2, 32) / largest[..., None])).astype(int)
    sums = np.einsum("rbk,obk->rob", rounded, raw[..., 2:].view(np.int8).astype(int))
    wanted = (sums * scale * largest[:, None]).sum(-1)
    with no_grad():
        found = ops.linear_int8(x, Tensor(weight, "q8_0"))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-5)
