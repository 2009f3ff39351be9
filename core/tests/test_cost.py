"""What a call is said to cost, against what its body is seen to do."""

import numpy as np
import pytest

from lcm import primitives
from lcm.ops import CATALOGUE
from lcm.ops.cases import case, in_blocks, sizes
from lcm.ops.cost import flops, traffic
from lcm.recording import no_grad


@pytest.fixture
def counted(monkeypatch):
    """The operations of all products that have been made."""
    found = []
    matmul = primitives.COMPUTE["matmul"]

    def count(x, y, out=None):
        result = matmul(x, y, out=out)
        found.append(2 * result.size * x.shape[-1])
        return result

    monkeypatch.setitem(primitives.COMPUTE, "matmul", count)
    return found


def one_row(op, rng):
    """Sizes at which a row sees all keys: those that it must not see are computed too, by the body."""
    drawn = sizes(op, rng)
    return drawn | {"rows": 1} if "rows" in drawn and "attention" in op.name else drawn


@pytest.mark.parametrize("op", CATALOGUE.values(), ids=CATALOGUE)
def test_an_ops_flops_are_those_of_its_bodys_products(op, counted):
    for seed in range(3):
        counted.clear()
        drawn = in_blocks(op, "f32", one_row(op, np.random.default_rng(seed)))
        with no_grad():
            op.run_body_inline(case(op, np.random.default_rng(seed), shape=drawn))
        assert flops(op, drawn) == sum(counted)


def test_attentions_flops_are_those_of_the_keys_that_each_row_sees():
    shape = {"batch": 2, "rows": 3, "heads": 4, "width": 5, "capacity": 7, "kv_heads": 2}
    keys = 5 + 6 + 7  # rows at the positions 4, 5, 6
    assert flops(CATALOGUE["attention"], shape) == 2 * 4 * keys * 2 * 2 * 5
    same = CATALOGUE["self_attention"]
    assert flops(same, {**shape, "three": 3}) == 2 * 4 * (1 + 2 + 3) * 2 * 2 * 5


@pytest.mark.parametrize("op", CATALOGUE.values(), ids=CATALOGUE)
def test_an_ops_traffic_is_that_of_its_arguments(op):
    bound = case(op, np.random.default_rng(0))
    arrays = op.arguments(bound)
    read = sum(arrays[n].nbytes for n in op.signature.arrays if n not in op.touched)
    changed = sum(arrays[n].nbytes for n in op.signature.changed if n not in op.touched)
    written = arrays["out"].nbytes if "out" in arrays else 0
    found = traffic(op, bound.sizes)
    assert found >= read + changed + written if op.touched else found == read + changed + written


def test_a_lookup_costs_the_rows_that_it_takes_and_not_the_table():
    embedding = CATALOGUE["embedding"]
    shape = {"vocabulary": 50000, "width": 64, "rows": 3}
    assert traffic(embedding, shape, format="bf16") == 3 * 64 * 2 + 3 * 4 + 3 * 64 * 4
    cache = CATALOGUE["cache_write"]
    shape = {"batch": 1, "capacity": 4096, "heads": 2, "width": 8, "rows": 1}
    assert traffic(cache, shape) == 2 * 16 * 4 + 16 * 4 + 4


def test_a_products_gradient_is_two_products_and_reads_the_results_gradient():
    linear, shape = CATALOGUE["linear"], {"rows": 2, "inputs": 3, "outputs": 5}
    assert flops(linear, shape, gradient=True) == 2 * flops(linear, shape) == 120
    inputs = 4 * (2 * 3 + 5 * 3 + 5)
    assert traffic(linear, shape, gradient=True) == inputs + 4 * 2 * 5 + inputs
