"""Gradients: one rule per primitive, and one walk from a result back to what it was made from."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from lcm.errors import ShapeError
from lcm.recording import enable_grad, no_grad, state
from lcm.tensor import Gradients, Node, Rule, Tensor


def _unexpand(g: Tensor, like: Tensor) -> Tensor:
    """Sum over whatever `expand` repeated."""
    new = g.ndim - like.ndim
    axes = [new + i for i, n in enumerate(like.shape) if n == 1 and g.shape[new + i] != 1]
    axes = [*range(new), *axes]
    return (g.sum(*axes) if axes else g).reshape(*like.shape)


def _concat_rule(g: Tensor, y: Tensor, *parts: Tensor, axis: int) -> Gradients:
    stops = np.cumsum([part.shape[axis] for part in parts]).tolist()
    return tuple(
        g.slice(axis, stop - part.shape[axis], stop)
        for part, stop in zip(parts, stops, strict=True)
    )


def _max_rule(g: Tensor, y: Tensor, x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Shared equally where several are the largest."""
    largest = x.detach().equal(y.detach()).cast(x.format)
    return (g / largest.sum(*axes)).expand(*x.shape) * largest


# From g, the gradient of a primitive's output y, to the gradient of each of its inputs: one function an
# input, so that what nobody wants is not computed, or one for all where their number varies.
RULES: dict[str, Rule] = {
    "add": (lambda g, y, a, b: g, lambda g, y, a, b: g),
    "sub": (lambda g, y, a, b: g, lambda g, y, a, b: -g),
    "mul": (lambda g, y, a, b: g * b, lambda g, y, a, b: g * a),
    "div": (lambda g, y, a, b: g / b, lambda g, y, a, b: -(g * y) / b),
    "neg": (lambda g, y, x: -g,),
    "exp": (lambda g, y, x: g * y,),
    "log": (lambda g, y, x: g / x,),
    "sqrt": (lambda g, y, x: g * 0.5 / y,),
    "tanh": (lambda g, y, x: g * (1 - y * y),),
    "erf": (lambda g, y, x: g * (-(x * x)).exp() * (2 / np.sqrt(np.pi)),),
    "where": (
        lambda g, y, mask, a, b: None,
        lambda g, y, mask, a, b: mask.where(g, 0),
        lambda g, y, mask, a, b: mask.where(0, g),
    ),
    "cast": (lambda g, y, x, source, to: g.cast(source),),
    "copy": (lambda g, y, x: g,),
    "sum": (lambda g, y, x, axes: g.expand(*x.shape),),
    "max": (_max_rule,),
    "matmul": (lambda g, y, a, b: g @ b.T, lambda g, y, a, b: a.T @ g),
    "concat": _concat_rule,
    "pad": (lambda g, y, x, axis, before, after: g.slice(axis, before, before + x.shape[axis]),),
    "gather": (
        lambda g, y, x, index: g.scatter_add(index, x.shape[0]),
        lambda g, y, x, index: None,
    ),
    "scatter_add": (
        lambda g, y, x, index, rows: g.gather(index),
        lambda g, y, x, index, rows: None,
    ),
    "expand": (lambda g, y, x, shape: _unexpand(g, x),),
    "reshape": (lambda g, y, x, shape: g.reshape(*x.shape),),
    "permute": (lambda g, y, x, axes: g.permute(*np.argsort(axes).tolist()),),
    "slice": (lambda g, y, x, axis, start, stop: g.pad(axis, start, x.shape[axis] - stop),),
}


def gradient(
    y: Tensor, targets: Sequence[Tensor], g: Tensor | None = None, *, create_graph: bool = False
) -> tuple[Tensor | None, ...]:
    """The gradient of y with respect to each target, weighted by g (1 for a scalar y).

    None for a target that y was not made from. With `create_graph` the gradients remember how they were
    made, so that they have gradients themselves.
    """
    found = {id(t): t for t in targets}
    with enable_grad() if create_graph else no_grad():
        sums = _walk(_order(y, found), y, _seed(y, g))
    return tuple(sums.get(id(t)) for t in targets)


def backward(y: Tensor, weight: Tensor | None = None) -> None:
    """Add the gradient of the scalar y, times the weight, to `.grad` of every leaf; forget how y was made.

    A leaf with a home finds its gradient there.
    """
    order = _order(y, {})
    leaves = {id(t): t for x in order if x.node for t in x.node.inputs if _is_leaf(t)}
    state.homes = {i: t.home for i, t in leaves.items() if t.home is not None and t.grad is None}
    try:
        with no_grad():
            sums = _walk(order, y, _seed(y, weight), forget=True)
            for key, leaf in leaves.items():
                if (total := sums.pop(key, None)) is not None:
                    leaf.grad = _settle(leaf, total)
    finally:
        state.homes = None


def _settle(leaf: Tensor, total: Tensor) -> Tensor:
    """The leaf's gradient with this one added."""
    if leaf.grad is not None and leaf.grad.data is leaf.home:
        leaf.grad.add_in_place(total)
        return leaf.grad
    total = total if leaf.grad is None else leaf.grad + total
    if leaf.home is None:
        return total
    settled = Tensor(leaf.home)
    if settled.address != total.address:
        settled.copy_from(total)
    return settled


def _is_leaf(t: Tensor) -> bool:
    return t.requires_grad and t.node is None


def _seed(y: Tensor, g: Tensor | None) -> Tensor:
    if g is not None:
        return g
    if y.size != 1:
        raise ShapeError(f"the gradient of a tensor of shape {y.shape} needs weights: pass g")
    return Tensor(np.ones(y.shape, y.data.dtype))


def _order(y: Tensor, stop: dict[int, Tensor]) -> deque[Tensor]:
    """Everything between y and the stops, each after what was made from it."""
    order: list[Tensor] = []
    seen: set[int] = set()
    stack = [(y, False)]
    while stack:
        t, done = stack.pop()
        if done:
            order.append(t)
        elif id(t) not in seen and t.node is not None and id(t) not in stop:
            seen.add(id(t))
            stack.append((t, True))
            stack.extend((i, False) for i in t.node.inputs if i.requires_grad)
    return deque(reversed(order))


def _parts(node: Node, g: Tensor, y: Tensor) -> Gradients:
    if callable(node.rule):
        return node.rule(g, y, *node.inputs, **node.params)
    return tuple(
        part(g, y, *node.inputs, **node.params) if x.requires_grad else None
        for part, x in zip(node.rule, node.inputs, strict=True)
    )


def _walk(order: deque[Tensor], y: Tensor, g: Tensor, *, forget: bool = False) -> dict[int, Tensor]:
    """The gradients of what the tensors in `order` were made from, by id; empties `order`."""
    sums = {id(y): g}
    while order:
        t = order.popleft()
        node = t.node
        if node is None or id(t) not in sums:
            continue
        parts = _parts(node, sums.pop(id(t)), t)
        for x, part in zip(node.inputs, parts, strict=True):
            if part is not None and x.requires_grad:
                before = sums.get(id(x))
                sums[id(x)] = part if before is None else before + part
        if forget:
            t.node = None
    return sums
