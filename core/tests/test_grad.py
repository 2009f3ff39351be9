"""Gradients against finite differences along a random direction, in f64, first and second order."""

import numpy as np
import pytest

from lcm import ops
from lcm.errors import ShapeError
from lcm.grad import RULES, gradient
from lcm.primitives import COMPUTE, VIEWS
from lcm.recording import no_grad
from lcm.tensor import Tensor, apply, concat

STEP = 1e-5
INDEX = np.array([2, 0, 2, 1], np.int32)


def normal(*shape: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    return Tensor(np.random.default_rng(seed + sum(shape)).standard_normal(shape) + shift)


def positive(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(sum(shape)).uniform(0.5, 2.0, shape))


PRIMITIVES = {
    "add": (lambda a, b: a + b, normal(3, 4), normal(3, 4, seed=1)),
    "sub": (lambda a, b: a - b, normal(3, 4), normal(3, 4, seed=1)),
    "mul": (lambda a, b: a * b, normal(3, 4), normal(3, 4, seed=1)),
    "div": (lambda a, b: a / b, normal(3, 4), positive(3, 4)),
    "neg": (lambda a: -a, normal(3, 4)),
    "exp": (lambda a: a.exp(), normal(3, 4)),
    "log": (lambda a: a.log(), positive(3, 4)),
    "sqrt": (lambda a: a.sqrt(), positive(3, 4)),
    "tanh": (lambda a: a.tanh(), normal(3, 4)),
    "erf": (lambda a: a.erf(), normal(40)),
    "where": (lambda a, b: (a.detach() < b.detach()).where(a * a, b), normal(9), normal(9, seed=1)),
    "cast": (lambda a: apply("cast", a, source="f64", to="f64") * a, normal(3)),
    "copy": (lambda a: a.copy() * a, normal(3)),
    "sum": (lambda a: a.sum(0) * a.sum(1), normal(3, 4)),
    "max": (lambda a: a.max() * a, normal(3, 4)),
    "matmul": (lambda a, b: a @ b, normal(2, 3, 4), normal(2, 4, 5)),
    "concat": (lambda a, b: concat([a, b * b], axis=1), normal(2, 3), normal(2, 4)),
    "pad": (lambda a: a.pad(1, 2, 1) * a.pad(1, 1, 2), normal(2, 3)),
    "gather": (lambda a: a.gather(Tensor(INDEX)) * 2, normal(3, 4)),
    "scatter_add": (lambda a: a.scatter_add(Tensor(INDEX), 3) * 2, normal(4, 5)),
    "expand": (lambda a, b: a * b, normal(3, 4), normal(4)),
    "reshape": (lambda a: a.T.reshape(2, 6) * a.reshape(2, 6), normal(3, 4)),
    "permute": (lambda a: a.permute(2, 0, 1) * 3, normal(2, 3, 4)),
    "slice": (lambda a: a.slice(1, 1, 3) * a.slice(1, 0, 2), normal(2, 4)),
}

START = Tensor(np.array([2, 0], np.int32))
TARGETS = Tensor(np.array([[1, -100, 4], [0, 3, 3]], np.int32))

OPS = {
    "linear": (ops.linear, normal(2, 3, 4), normal(5, 4), normal(5)),
    "matmul": (ops.matmul, normal(2, 3, 4), normal(2, 4, 5)),
    "rms_norm": (lambda *a: ops.rms_norm(*a, eps=1e-5), normal(2, 3, 8), normal(8)),
    "layer_norm": (lambda *a: ops.layer_norm(*a, eps=1e-5), normal(6, 8), normal(8), normal(8)),
    "softmax": (ops.softmax, normal(4, 7)),
    "gelu": (ops.gelu, normal(30)),
    "gelu tanh": (lambda x: ops.gelu(x, tanh=True), normal(30)),
    "silu": (ops.silu, normal(30)),
    "swiglu": (ops.swiglu, normal(5, 6), normal(5, 6, seed=1)),
    "geglu": (ops.geglu, normal(5, 6), normal(5, 6, seed=1)),
    "geglu tanh": (lambda x, y: ops.geglu(x, y, tanh=True), normal(5, 6), normal(5, 6, seed=1)),
    "swiglu of one tensor": (lambda x: ops.swiglu(x, x), normal(5, 6)),
    "rope": (lambda x, c, s: ops.rope(x, c, s, START), normal(2, 3, 2, 7), normal(5, 3), normal(5, 3)),
    "rope interleaved": (
        lambda x, c, s: ops.rope(x, c, s, START, interleaved=True),
        normal(2, 3, 2, 6), normal(5, 3), normal(5, 3),
    ),
    "attention": (
        lambda q, k, v: ops.attention(q, k, v, START, scale=0.5),
        normal(2, 3, 4, 5), normal(2, 6, 2, 5), normal(2, 6, 2, 5, seed=1),
    ),
    "attention in a window": (
        lambda q, k, v: ops.attention(q, k, v, START, scale=0.5, window=2),
        normal(2, 3, 2, 4), normal(2, 5, 2, 4), normal(2, 5, 2, 4, seed=1),
    ),
    "attention capped": (
        lambda q, k, v: ops.attention(q, k, v, START, scale=0.5, softcap=0.8),
        normal(2, 3, 4, 5), normal(2, 6, 2, 5), normal(2, 6, 2, 5, seed=1),
    ),
    "attention_with_sinks": (
        lambda q, k, v, s: ops.attention_with_sinks(q, k, v, s, START, scale=0.5, window=3),
        normal(2, 3, 4, 5), normal(2, 6, 2, 5), normal(2, 6, 2, 5, seed=1), normal(4),
    ),
    "self_attention": (
        lambda x: ops.self_attention(x, scale=0.5, window=2), normal(2, 4, 3, 2, 5),
    ),
    "embedding": (lambda w: ops.embedding(w, Tensor(INDEX)), normal(3, 4)),
    "cross_entropy": (lambda x: ops.cross_entropy(x, TARGETS), normal(2, 3, 5)),
    "add": (ops.add, normal(3, 4), normal(3, 4, seed=1)),
    "sum_squares": (ops.sum_squares, normal(3, 4)),
}  # fmt: skip
CASES = {
    **{f"primitive {n}": c for n, c in PRIMITIVES.items()},
    **{f"op {n}": c for n, c in OPS.items()},
}
WITHOUT_GRADIENT = {"less", "equal", "put", "round"}


def weigh(y: Tensor, seed: int) -> Tensor:
    """A scalar that depends on every number of y, and is not linear in it."""
    y = y.reshape(y.size)
    return (y * y * 0.3 + y * normal(y.size, seed=seed)).sum(0).reshape()


def along(function, inputs, directions):
    """The derivative of a scalar function along the directions, by central differences."""
    ends = [
        function(
            *[Tensor(x.data + s * STEP * d) for x, d in zip(inputs, directions, strict=True)]
        ).item()
        for s in (1, -1)
    ]
    return (ends[0] - ends[1]) / (2 * STEP)


def slope(gradients, directions):
    return sum(
        float((g.data * d).sum())
        for g, d in zip(gradients, directions, strict=True)
        if g is not None
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("order", [1, 2])
def test_gradient_is_the_slope_along_a_random_direction(case, order):
    function, *inputs = CASES[case]
    rng = np.random.default_rng(7)
    directions = [rng.standard_normal(x.shape) for x in inputs]
    weights = [rng.standard_normal(x.shape) for x in inputs]

    def first(*xs):
        return weigh(function(*xs), seed=3)

    def second(*xs):
        """The slope along `weights`, as a function of the inputs."""
        xs = [Tensor(x.data, requires_grad=True) if not x.requires_grad else x for x in xs]
        parts = gradient(first(*xs), xs, create_graph=True)
        terms = [
            (g * Tensor(w)).reshape(g.size).sum(0) for g, w in zip(parts, weights, strict=True)
        ]
        return sum(terms[1:], terms[0]).reshape()

    scalar = first if order == 1 else second
    tracked = [Tensor(x.data, requires_grad=True) for x in inputs]
    found = slope(gradient(scalar(*tracked), tracked), directions)
    assert found == pytest.approx(along(scalar, inputs, directions), rel=1e-6, abs=1e-7)


def test_cast_passes_the_gradient_in_the_format_of_its_input():
    x = normal(5)
    x.requires_grad = True
    (g,) = gradient((x.cast("f32") * 3).sum(0).reshape(), [x])
    assert g.format == "f64"
    assert np.array_equal(g.data, np.full(5, 3.0))


def test_every_primitive_has_a_rule_and_a_case_or_says_that_it_has_none():
    assert set(RULES) == (set(COMPUTE) | set(VIEWS)) - WITHOUT_GRADIENT
    assert set(PRIMITIVES) == set(RULES)


def test_every_op_with_an_output_has_a_case():
    expected = {name for name, op in ops.CATALOGUE.items() if op.signature.has_gradient}
    assert {name.split()[0] for name in OPS} == expected


@pytest.mark.parametrize(
    "name", ["rms_norm", "gelu", "swiglu", "attention", "self_attention", "rope"]
)
def test_gradient_in_pieces_equals_gradient_of_the_whole(name, monkeypatch):
    function, *inputs = OPS[name]
    whole = _gradients(function, inputs)
    monkeypatch.setattr("lcm.ops.split.PIECE", 1)
    for a, b in zip(whole, _gradients(function, inputs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def _gradients(function, inputs):
    tracked = [Tensor(x.data, requires_grad=True) for x in inputs]
    return [g.data for g in gradient(weigh(function(*tracked), seed=3), tracked)]


def test_backward_adds_to_what_is_there():
    x = Tensor(np.ones(3), requires_grad=True)
    for _ in range(2):
        (x * x).sum(0).reshape().backward()
    assert np.array_equal(x.grad.data, np.full(3, 4.0))


def test_a_tensor_used_twice_gets_both_gradients():
    x = Tensor(np.array([3.0]), requires_grad=True)
    y = x * x
    (g,) = gradient((y * y + y).reshape(), [x])
    assert g.data.item() == 4 * 27 + 6


def test_nothing_is_remembered_under_no_grad():
    x = Tensor(np.ones(3), requires_grad=True)
    with no_grad():
        assert (x * 2).node is None
        assert ops.gelu(Tensor(np.ones(3, np.float32), requires_grad=True)).node is None


def test_gradient_of_what_is_not_a_scalar_needs_weights():
    with pytest.raises(ShapeError, match="needs weights"):
        gradient(normal(3), [normal(3)])


def test_an_unused_target_has_no_gradient():
    x, unused = normal(3), normal(3)
    x.requires_grad = unused.requires_grad = True
    assert gradient(apply("exp", x).sum(0).reshape(), [unused]) == (None,)
