"""Tensor: exchange with other libraries, shapes, and what must not be read while a program is recorded."""

import numpy as np
import pytest

from lcm.errors import FormatError, ShapeError
from lcm.program import record
from lcm.tensor import Tensor, concat


def test_a_tensor_is_the_memory_of_its_array():
    array = np.zeros((2, 3), np.float32)
    tensor = Tensor(array)
    array[1, 2] = 5
    assert tensor.data[1, 2] == 5
    assert tensor.numpy() is array
    assert tensor.address == array.ctypes.data


def test_dlpack_goes_both_ways_without_copying():
    tensor = Tensor(np.arange(6, dtype=np.float32))
    seen = np.from_dlpack(tensor)
    back = Tensor.from_dlpack(seen)
    tensor.data[3] = 42
    assert seen[3] == 42
    assert back.data[3] == 42


def test_numpy_takes_a_tensor_for_an_array():
    assert np.asarray(Tensor(np.ones(3, np.float32))).sum() == 3


def test_numbers_and_lists_become_f32_or_integers():
    assert Tensor([1.0, 2.0]).format == "f32"
    assert Tensor(3.5).format == "f32"


def test_arithmetic_follows_the_rules_of_broadcasting():
    a, b = np.random.default_rng(0).standard_normal((3, 1, 4)), np.arange(2.0).reshape(2, 1)
    for name in ("__add__", "__sub__", "__mul__", "__truediv__"):
        with np.errstate(all="ignore"):
            want = getattr(a, name)(b)
            found = getattr(Tensor(a), name)(Tensor(b)).data
        np.testing.assert_array_equal(found, want)
    np.testing.assert_array_equal((2 - Tensor(a)).data, 2 - a)
    np.testing.assert_array_equal((2 / Tensor(a)).data, 2 / a)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: x.reshape(5), r"reshape: \(2, 3\) has 6 numbers, \(5,\) does not"),
        (lambda x: x.reshape(4, -1), r"reshape: .* does not"),
        (lambda x: x.slice(1, 2, 4), r"slice: \[2:4\] is not within axis 1 of \(2, 3\)"),
        (lambda x: x.expand(2, 4), r"expand: \(2, 3\) does not broadcast to \(2, 4\)"),
        (lambda x: x @ x, r"matmul: \(2, 3\) and \(2, 3\) do not fit"),
        (lambda x: x + Tensor(np.ones((4, 4), np.float32)), r"do not broadcast"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ShapeError, match=message):
        call(Tensor(np.zeros((2, 3), np.float32)))


def test_a_format_that_does_not_exist_is_refused():
    with pytest.raises(FormatError, match="no format for numpy's complex64"):
        Tensor(np.zeros(2, np.complex64))


def test_concat_and_slice_are_inverse():
    a, b = Tensor(np.ones((2, 3), np.float32)), Tensor(np.zeros((2, 1), np.float32))
    both = concat([a, b], axis=-1)
    np.testing.assert_array_equal(both.slice(1, 0, 3).data, a.data)
    np.testing.assert_array_equal(both.slice(-1, 3, 4).data, b.data)


@pytest.mark.parametrize("read", [lambda x: x.item(), lambda x: x.numpy(), lambda x: np.asarray(x)])
def test_reading_a_value_while_recording_is_refused(read):
    x = Tensor(np.ones(1, np.float32))
    with pytest.raises(FormatError, match="while a program is being recorded"):
        record(lambda: read(x + 1))
    assert (x + 1).item() == 2  # and the recording is over
