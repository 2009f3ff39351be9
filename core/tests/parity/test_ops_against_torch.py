"""Ops against torch.nn.functional and torch.optim: values and gradients.

In f64 the op's body runs, and has to agree to rounding; in f32 whatever kernel is chosen here runs.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lcm import formats, ops
from lcm.grad import gradient
from lcm.tensor import Tensor

DTYPES = {"f32": (np.float32, 2e-5), "f64": (np.float64, 1e-11)}


@pytest.fixture(params=DTYPES)
def precision(request):
    return DTYPES[request.param]


def draw(precision, *shape, seed=0, scale=1.0):
    numbers = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return np.asarray(numbers * scale, precision[0])


def assert_same(op, reference, arrays, precision):
    """The op and torch, which computes in f64, give the same values and gradients."""
    ours = [Tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a).double().requires_grad_() for a in arrays]
    y, wanted = op(*ours), reference(*theirs)
    g = draw(precision, *y.shape, seed=9)
    assert_close(y.numpy(), wanted.detach().numpy(), precision)
    wanted.backward(torch.tensor(g).double())
    for found, leaf in zip(gradient(y, ours, Tensor(g)), theirs, strict=True):
        assert_close(found.numpy(), leaf.grad.numpy(), precision)


def assert_close(found, wanted, precision):
    assert found.dtype == precision[0]
    assert found.shape == wanted.shape
    size = max(np.abs(wanted).max(initial=0), 1.0)
    assert np.abs(found - wanted).max(initial=0) <= precision[1] * size


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu"])
def test_activations_are_torchs(name, precision):
    op, reference = {
        "gelu": (ops.gelu, F.gelu),
        "gelu_tanh": (lambda x: ops.gelu(x, tanh=True), lambda x: F.gelu(x, approximate="tanh")),
        "silu": (ops.silu, F.silu),
    }[name]
    assert_same(op, reference, [draw(precision, 7, 33, scale=3.0)], precision)


def test_swiglu_is_silu_times_up(precision):
    x, y = draw(precision, 5, 21, scale=2.0), draw(precision, 5, 21, seed=1)
    assert_same(ops.swiglu, lambda gate, up: F.silu(gate) * up, [x, y], precision)


@pytest.mark.parametrize("kind", ["none", "tanh"])
def test_geglu_is_gelu_times_up(kind, precision):
    x, y = draw(precision, 5, 21, scale=2.0), draw(precision, 5, 21, seed=1)
    assert_same(
        lambda gate, up: ops.geglu(gate, up, tanh=kind == "tanh"),
        lambda gate, up: F.gelu(gate, approximate=kind) * up, [x, y], precision,
    )  # fmt: skip


@pytest.mark.parametrize("width", [1, 20, 257])
def test_layer_norm_is_torchs(width, precision):
    arrays = [draw(precision, 3, 4, width), draw(precision, width), draw(precision, width, seed=1)]
    assert_same(
        lambda x, w, b: ops.layer_norm(x, w, b, eps=1e-3),
        lambda x, w, b: F.layer_norm(x, [width], w, b, 1e-3), arrays, precision,
    )  # fmt: skip


@pytest.mark.parametrize("width", [1, 20, 257])
def test_rms_norm_is_torchs(width, precision):
    arrays = [draw(precision, 3, 4, width), draw(precision, width)]
    assert_same(
        lambda x, w: ops.rms_norm(x, w, eps=1e-3),
        lambda x, w: F.rms_norm(x, [width], w, 1e-3), arrays, precision,
    )  # fmt: skip


def test_softmax_is_torchs_for_large_numbers_too(precision):
    x = draw(precision, 6, 19, scale=5.0)
    x[0] += 1000
    assert_same(ops.softmax, lambda x: F.softmax(x, -1), [x], precision)


def test_linear_is_torchs(precision):
    arrays = [draw(precision, 2, 5, 13), draw(precision, 7, 13), draw(precision, 7)]
    assert_same(ops.linear, F.linear, arrays, precision)
    assert_same(ops.linear, F.linear, arrays[:2], precision)


def test_matmul_is_torchs(precision):
    assert_same(ops.matmul, torch.matmul, [draw(precision, 2, 3, 5, 4), draw(precision, 2, 3, 4, 6)],
                precision)  # fmt: skip


def test_embedding_is_torchs_with_rows_used_twice(precision):
    ids = np.array([[1, 4, 1], [0, 1, 8]], np.int32)
    assert_same(
        lambda weight: ops.embedding(weight, Tensor(ids)),
        lambda weight: F.embedding(torch.tensor(ids).long(), weight), [draw(precision, 9, 5)], precision,
    )  # fmt: skip


@pytest.mark.parametrize(
    "ignored", [(), (0, 3), (0, 1, 2, 3, 4)], ids=["none", "some", "all but one"]
)
def test_cross_entropy_is_torchs(ignored, precision):
    targets = np.array([3, 0, 10, 2, 5, 10], np.int32)
    targets[list(ignored)] = -100
    assert_same(
        lambda x: ops.cross_entropy(x, Tensor(targets)),
        lambda x: F.cross_entropy(x, torch.tensor(targets).long()),
        [draw(precision, 6, 11, scale=4.0)], precision,
    )  # fmt: skip


def test_cross_entropy_ignores_the_index_it_is_told(precision):
    targets = np.array([3, 0, 10, 2], np.int32)
    assert_same(
        lambda x: ops.cross_entropy(x, Tensor(targets), ignore_index=10),
        lambda x: F.cross_entropy(x, torch.tensor(targets).long(), ignore_index=10),
        [draw(precision, 4, 11)], precision,
    )  # fmt: skip


def test_cross_entropy_of_nothing_is_zero_with_zero_gradients(precision):
    """torch's is not a number: a batch without targets would end a run."""
    x = Tensor(draw(precision, 3, 5), requires_grad=True)
    y = ops.cross_entropy(x, Tensor(np.full(3, -100, np.int32)))
    assert y.item() == 0
    np.testing.assert_array_equal(gradient(y, [x])[0].numpy(), np.zeros((3, 5)))


CASES = {
    "causal": (dict(heads=3, kv_heads=3, rows=9, capacity=9, start=(0, 0)), 0),
    "grouped": (dict(heads=6, kv_heads=2, rows=9, capacity=9, start=(0, 0)), 0),
    "one key head, after others": (
        dict(heads=4, kv_heads=1, rows=3, capacity=20, start=(5, 17)),
        0,
    ),
    "window": (dict(heads=2, kv_heads=2, rows=11, capacity=11, start=(0, 0)), 4),
    "window of one": (dict(heads=2, kv_heads=1, rows=5, capacity=5, start=(0, 0)), 1),
    "window, after others": (dict(heads=4, kv_heads=2, rows=2, capacity=16, start=(13, 2)), 5),
    "one row": (dict(heads=4, kv_heads=2, rows=1, capacity=33, start=(32, 7)), 0),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("width", [4, 20])
def test_attention_is_torchs_with_the_mask_written_out(name, width, precision):
    sizes, window = CASES[name]
    rows, capacity, heads, kv_heads = (sizes[n] for n in ("rows", "capacity", "heads", "kv_heads"))
    start = np.array(sizes["start"], np.int32)
    seen = np.zeros((2, 1, rows, capacity), bool)
    for b in range(2):
        for t in range(rows):
            last = start[b] + t
            seen[b, 0, t, max(0, last - window + 1) if window else 0 : last + 1] = True

    def reference(q, k, v):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=torch.tensor(seen), scale=0.3, enable_gqa=True
        )
        return y.transpose(1, 2)

    arrays = [draw(precision, 2, rows, heads, width), draw(precision, 2, capacity, kv_heads, width),
              draw(precision, 2, capacity, kv_heads, width, seed=1)]  # fmt: skip
    assert_same(
        lambda q, k, v: ops.attention(q, k, v, Tensor(start), scale=0.3, window=window),
        reference, arrays, precision,
    )  # fmt: skip


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("softcap", [0.3, 2.0, 50.0])
def test_attention_with_capped_scores_is_torchs_written_out(rows, softcap, precision):
    def reference(q, k, v):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        scores = softcap * torch.tanh(q @ k.transpose(2, 3) * 0.7 / softcap)
        hidden = torch.ones(rows, rows + 2).triu(3).bool()
        return (scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v).transpose(1, 2)

    arrays = [
        draw(precision, 2, n, 3, 20, seed=i) for i, n in enumerate((rows, rows + 2, rows + 2))
    ]
    start = Tensor(np.array([2, 2], np.int32))
    assert_same(
        lambda q, k, v: ops.attention(q, k, v, start, scale=0.7, softcap=softcap),
        reference, arrays, precision,
    )  # fmt: skip


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("size", [0.5, 30.0], ids=["some sink", "all or nothing"])
def test_attention_with_sinks_is_torchs_written_out(rows, size, precision):
    def reference(q, k, v, sinks):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        k, v = (x.repeat_interleave(2, dim=1) for x in (k, v))
        hidden = torch.ones(rows, rows + 2).triu(3).bool()
        scores = (q @ k.transpose(2, 3) * 0.7).masked_fill(hidden, -torch.inf)
        column = sinks.reshape(1, 4, 1, 1).expand(2, 4, rows, 1)
        shares = torch.cat([scores, column], -1).softmax(-1)
        return (shares[..., :-1] @ v).transpose(1, 2)

    arrays = [draw(precision, 2, rows, 4, 20, seed=0), draw(precision, 2, rows + 2, 2, 20, seed=1),
              draw(precision, 2, rows + 2, 2, 20, seed=2), draw(precision, 4, seed=3) * size]  # fmt: skip
    start = Tensor(np.array([2, 2], np.int32))
    assert_same(
        lambda q, k, v, s: ops.attention_with_sinks(q, k, v, s, start, scale=0.7),
        reference, arrays, precision,
    )  # fmt: skip


@pytest.mark.parametrize("interleaved", [False, True], ids=["half-split", "interleaved"])
@pytest.mark.parametrize("beyond", [0, 3], ids=["all", "some stay"])
def test_rope_multiplies_complex_numbers(interleaved, beyond, precision):
    batch, rows, heads, half, positions = 2, 5, 3, 4, 40
    x = draw(precision, batch, rows, heads, 2 * half + beyond)
    start = np.array([3, 35], np.int32)
    angles = np.outer(np.arange(positions), 100.0 ** (-np.arange(half) / half))
    double = x.astype(np.float64)
    turned = double[..., : 2 * half]
    a, b = (turned[..., ::2], turned[..., 1::2]) if interleaved else np.split(turned, 2, -1)
    places = start[:, None] + np.arange(rows)
    product = (a + 1j * b) * np.exp(1j * angles[places])[:, :, None]
    wanted = double.copy()
    if interleaved:
        wanted[..., 0 : 2 * half : 2], wanted[..., 1 : 2 * half : 2] = product.real, product.imag
    else:
        wanted[..., :half], wanted[..., half : 2 * half] = product.real, product.imag
    tables = [Tensor(f(angles).astype(precision[0])) for f in (np.cos, np.sin)]
    y = ops.rope(Tensor(x), *tables, Tensor(start), interleaved=interleaved)
    assert_close(y.numpy(), wanted, precision)


def test_half_split_rope_is_transformers_and_so_is_its_table():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    from lcm.caches import NoCache
    from lcm.models.rotary import Rotary

    config = LlamaConfig(
        hidden_size=60,
        num_attention_heads=3,
        rope_parameters={"rope_type": "default", "rope_theta": 77.0},
    )
    x = draw(DTYPES["f32"], 2, 50, 3, 20)
    cos, sin = LlamaRotaryEmbedding(config)(torch.tensor(x), torch.arange(50)[None])
    wanted, _ = apply_rotary_pos_emb(torch.tensor(x).transpose(1, 2), torch.zeros(1), cos, sin)
    table = Rotary(50, 20, 77.0).table(NoCache(2, 50))
    y = ops.rope(Tensor(x), *table, Tensor(np.zeros(2, np.int32)))
    assert_close(y.numpy(), wanted.transpose(1, 2).numpy(), DTYPES["f32"])


def test_bf16_is_rounded_as_torch_rounds_it_at_every_tie_too():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**16, 20_000, np.uint32) << 16
    bits[:10_000] |= 0x8000  # exactly between two
    bits[10_000:] |= rng.integers(0, 2**16, 10_000, np.uint32)
    numbers = bits.view(np.float32)
    numbers = numbers[~np.isnan(numbers)]
    wanted = torch.tensor(numbers).bfloat16()
    found = formats.encode(numbers, "bf16")
    np.testing.assert_array_equal(found.view(np.int16), wanted.view(torch.int16).numpy())
    np.testing.assert_array_equal(formats.decode(found, "bf16"), wanted.float().numpy())


def test_adamw_is_torchs(precision):
    x = draw(precision, 4, 31)
    ours, m, v = Tensor(x.copy()), Tensor(np.zeros_like(x)), Tensor(np.zeros_like(x))
    theirs = torch.tensor(x).double().requires_grad_()
    adamw = torch.optim.AdamW([theirs], lr=0.03, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.2)
    for step in range(1, 8):
        grad = draw(precision, 4, 31, seed=step)
        ops.adamw_step(ours, m, v, Tensor(grad * precision[0](4)), lr=0.03, beta1=0.8, beta2=0.95,
                       eps=1e-3, weight_decay=0.2, step=step, grad_scale=0.25)  # fmt: skip
        theirs.grad = torch.tensor(grad).double()
        adamw.step()
        assert_close(ours.numpy(), theirs.detach().numpy(), precision)
    state = adamw.state[theirs]
    assert_close(m.numpy(), state["exp_avg"].numpy(), precision)
    assert_close(v.numpy(), state["exp_avg_sq"].numpy(), precision)


def test_sgd_is_torchs_with_the_decay_taken_apart(precision):
    """torch adds the decay to the gradient; ours shrinks the parameter, as AdamW does."""
    x = draw(precision, 4, 31)
    ours, velocity = Tensor(x.copy()), Tensor(np.zeros_like(x))
    theirs = torch.tensor(x).double().requires_grad_()
    sgd = torch.optim.SGD([theirs], lr=0.05, momentum=0.9)
    for step in range(1, 8):
        grad = draw(precision, 4, 31, seed=step)
        ops.sgd_step(ours, velocity, Tensor(grad * precision[0](2)), lr=0.05, momentum=0.9,
                     weight_decay=0.3, grad_scale=0.5)  # fmt: skip
        with torch.no_grad():
            theirs.mul_(1 - 0.05 * 0.3)
        theirs.grad = torch.tensor(grad).double()
        sgd.step()
        assert_close(ours.numpy(), theirs.detach().numpy(), precision)
