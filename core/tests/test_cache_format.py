"""The cache of keys and values in f16 and q8_0: what is written, what attention reads, what a model gives."""

import numpy as np
import pytest

import lcm
from lcm import formats, models, ops
from lcm.backend import native
from lcm.caches import KVCache, NoCache
from lcm.errors import FormatError, ShapeError, UsageError
from lcm.generate.decoder import Decoder
from lcm.models.summary import summary
from lcm.tensor import Tensor

SHORT = ("f16", "q8_0")
LLAMA = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 290,
         "max_position_embeddings": 300, "tie_word_embeddings": True}  # fmt: skip
MODELS = {
    "llama": LLAMA,
    "in a window": {**LLAMA, "model_type": "mistral", "sliding_window": 9},
    "its one array": {"model_type": "gpt2", "n_positions": 300, "n_embd": 64, "n_layer": 2,
                      "n_head": 2, "vocab_size": 290},
}  # fmt: skip


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def stored(array, format):
    return Tensor(formats.encode(array, format), format)


def start(*numbers):
    return Tensor(np.array(numbers, np.int32))


@pytest.fixture(params=["the body", "the kit"])
def written(request):
    """What `cache_write` makes of rows of numbers, by the op's body, and by the kit in plain C."""
    in_c = request.param == "the kit"
    kernels = native.load(request.getfixturevalue("kit_library"), "kit").kernels if in_c else {}

    def written(rows, format):
        op, chosen = ops.cache_write, formats.FORMATS[format]
        empty = np.zeros(chosen.stored((1, len(rows), 1, rows.shape[1])), chosen.storage)
        bound = op.signature.bind(Tensor(empty, format), Tensor(rows[None, :, None]), start(0))
        kernel = kernels.get(f"cache_write__{format}")
        found = op.run_kernel(kernel, bound) if kernel else op.run_body(bound)
        return found.data[0, :, 0]

    return written


@pytest.fixture(params=["fastest here", "the kit"])
def somewhere(request):
    """The backends that there are, or the kit alone, in plain C."""
    if request.param == "the kit":
        kit = native.load(request.getfixturevalue("kit_library"), "kit")
        request.getfixturevalue("only_backend")(kit)


def test_halves_are_written_as_numpy_rounds_them(written):
    """Every half, what lies between two and just beside that, what is too large, and what is no number."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32).view(np.uint32)
    between = np.concatenate([halves + n for n in (0, 0x800, 0xFFF, 0x1000, 0x1001)])
    others = np.random.default_rng(0).integers(0, 1 << 32, 1 << 15, np.uint32)
    x = np.concatenate([between, others]).view(np.float32).reshape(-1, 64)
    with np.errstate(all="ignore"):
        wanted = x.astype(np.float16)
    np.testing.assert_array_equal(written(x, "f16"), wanted)


def test_blocks_are_written_with_the_bytes_of_the_format(written):
    """Numbers of all sizes, those halfway between two whole ones, zeros, and what is next to 0."""
    sizes = 10.0 ** np.random.default_rng(1).uniform(-9, 4, (5000, 1))
    x = drawn(5000, 64) * sizes.astype(np.float32)
    x[::7] = np.round(x[::7] / np.abs(x[::7]).max(1, keepdims=True) * 254) / 2
    x[:4] = np.array([[0.0], [-0.0], [1e-40], [65504]])
    assert (written(x, "q8_0") == formats.encode(x, "q8_0")).all()


def test_a_block_with_a_nan_is_no_number_at_all(kit_library):
    x = drawn(3, 32)
    x[1, 5] = np.nan
    cache = Tensor(np.zeros((1, 3, 1, 1), "V34"), "q8_0")
    bound = ops.cache_write.signature.bind(cache, Tensor(x[None, :, None]), start(0))
    ops.cache_write.run_kernel(native.load(kit_library, "kit").kernels["cache_write__q8_0"], bound)
    assert np.isnan(cache.numpy()).all(-1).ravel().tolist() == [False, True, False]


@pytest.mark.parametrize("format", SHORT)
def test_rows_go_where_each_sequence_stands(format):
    cache, x = np.ones((2, 7, 3, 32), np.float32), drawn(2, 2, 3, 32)
    found = ops.cache_write(stored(cache, format), Tensor(x), start(5, 1))
    cache[0, 5:7], cache[1, 1:3] = x
    np.testing.assert_array_equal(found.numpy(), stored(cache, format).numpy())


@pytest.mark.parametrize("rows", [1, 40], ids=["a step", "a prompt"])
@pytest.mark.parametrize(
    "options", [{}, {"window": 3, "softcap": 2.0}], ids=["all", "some, capped"]
)
@pytest.mark.parametrize("format", SHORT)
@pytest.mark.usefixtures("somewhere")
def test_attention_reads_the_numbers_that_are_stored(format, options, rows):
    q = Tensor(drawn(2, rows, 6, 64))
    k, v = (stored(drawn(2, 700, 2, 64, seed=s), format) for s in (1, 2))
    exact = (Tensor(formats.decode(x.data, format)) for x in (k, v))
    wanted = ops.attention(q, *exact, start(650, 13), scale=0.2, **options)
    found = ops.attention(q, k, v, start(650, 13), scale=0.2, **options)
    np.testing.assert_allclose(found.data, wanted.data, atol=2e-6)


def test_keys_and_values_share_their_format():
    q, (k, v) = Tensor(drawn(1, 1, 2, 32)), (stored(drawn(1, 4, 2, 32), f) for f in SHORT)
    with pytest.raises(FormatError, match="^attention: v has q8_0, but k has f16$"):
        ops.attention(q, k, v, start(0), scale=1)
    assert ops.attention.signature.kernels == (
        "attention", "attention__f16", "attention__q8_0", "attention_grad",
    )  # fmt: skip


def test_a_tensor_of_blocks_is_reshaped_by_whole_blocks():
    x = stored(drawn(2, 3, 64), "q8_0")
    np.testing.assert_array_equal(x.reshape(6, 2, 32).numpy(), x.numpy().reshape(6, 2, 32))
    with pytest.raises(ShapeError, match="q8_0 stores rows of whole blocks of 32"):
        x.reshape(2, 12, 16)


@pytest.mark.parametrize("format", SHORT)
def test_growth_keeps_the_bits_of_what_is_stored(format):
    cache = KVCache(1, 2, 32, context=1000, batch=2, format=format)
    k, v = drawn(2, 100, 2, 32), drawn(2, 100, 2, 32, seed=1)
    cache.layer(0).attention(Tensor(k), Tensor(k), Tensor(v), scale=1.0)
    cache.advance(100)
    assert cache.reserve(500) and cache.capacity == 1000
    for held, x in ((cache.layer(0).k, k), (cache.layer(0).v, v)):
        assert (held.data[:, :100] == formats.encode(x, format)).all()
        assert not held.numpy()[:, 100:].any()


class Rounded(NoCache):
    """Keys and values of a whole text at once, rounded as a cache of this format has them."""

    def __init__(self, tokens, format):
        super().__init__(1, tokens)
        self._format = format

    def attention(self, q, k, v, **options):
        k, v = (stored(x.data, self._format).cast("f32") for x in (k, v))
        return super().attention(q, k, v, **options)

    def self_attention(self, qkv, *, scale):
        q, k, v = (Tensor(np.ascontiguousarray(qkv.data[:, :, i])) for i in range(3))
        return self.attention(q, k, v, scale=scale)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("format", "close"), [("f32", 2e-5), ("f16", 6e-4), ("q8_0", 2e-3)])
def test_a_text_is_what_it_is_with_keys_and_values_rounded(name, format, close, monkeypatch):
    """By the recorded program, past the cache's growth; what lies between two numbers may go either way."""
    monkeypatch.setenv("LCM_CACHE_FORMAT", format)
    model = models.fresh(MODELS[name], 5)
    for i, parameter in enumerate(model.parameters().values()):
        parameter.data += drawn(*parameter.shape, seed=i) * 0.15
    ids = np.random.default_rng(0).integers(0, 290, 150).tolist()
    decoder = Decoder(model)
    found = [decoder.prefill(ids[:20]).copy(), *(decoder.step(token).copy() for token in ids[20:])]
    with lcm.no_grad():
        cache = Rounded(len(ids), format)
        wanted = model.logits(model.hidden(Tensor(np.array([ids], np.int32)), cache)).data[0, 19:]
    np.testing.assert_allclose(found, wanted, atol=close * np.abs(wanted).max())
    assert decoder.cache.format == format and decoder.cache.capacity > KVCache.FIRST


def test_a_short_format_takes_a_half_and_about_a_quarter_of_the_memory(tmp_path, monkeypatch):
    """In the buffers, and in what is said of a model before it is read."""
    model = models.fresh(LLAMA, 0)
    models.save(model, tmp_path)
    held, said = {}, {}
    for format in ("f32", *SHORT):
        monkeypatch.setenv("LCM_CACHE_FORMAT", format)
        cache = model.new_cache()
        held[format] = sum(
            cache.layer(i).k.data.nbytes + cache.layer(i).v.data.nbytes for i in (0, 1)
        )
        said[format] = summary(tmp_path).bytes_each * cache.capacity
    assert held == said == {"f32": 131072, "f16": 65536, "q8_0": 131072 // 4 * 34 // 32}


@pytest.mark.parametrize(
    ("format", "width", "message"),
    [
        ("q4_0", 32, "the setting 'cache_format' must be f32, f16 or q8_0, not 'q4_0'"),
        ("q8_0", 24, "the setting 'cache_format' is q8_0, which is for whole blocks of 32 numbers, but the "
                     "model's heads are 24 wide; f16 takes any"),
    ],
)  # fmt: skip
def test_a_format_that_cannot_be_is_refused_in_one_line(format, width, message, monkeypatch):
    monkeypatch.setenv("LCM_CACHE_FORMAT", format)
    with pytest.raises(UsageError) as caught:
        models.fresh({**LLAMA, "head_dim": width}, 0).new_cache()
    assert str(caught.value) == message
