"""The golden numbers: what PyTorch computed once (`golden/make.py`), on every backend that is ready here."""

import contextlib
from pathlib import Path

import numpy as np
import pytest

import lcm
from lcm import models, ops
from lcm.backend import discovery, dispatch
from lcm.files.safetensors import open_safetensors
from lcm.generate.decoder import Decoder
from lcm.tensor import Tensor
from lcm.train.optimizers import AdamW

GOLDEN = Path(__file__).parent / "golden"
DEFAULT = "default dispatch"

pytestmark = pytest.mark.filterwarnings("ignore:.* the reference runs it:lcm.errors.LcmWarning")


@pytest.fixture(params=[DEFAULT, *(backend.name for backend in discovery.ready())], autouse=True)
def backend(request, monkeypatch):
    """Everything in the test runs there; afterwards it is certain that it did."""
    monkeypatch.delenv("LCM_BACKEND", raising=False)
    name = request.param
    with contextlib.nullcontext() if name == DEFAULT else dispatch.use_backend(name):
        yield name
    used = {backend for kernels in dispatch.ran().values() for backend in kernels}
    assert name == DEFAULT or name in used <= {name, "reference"}


@pytest.fixture(params=["gpt2", "llama", "mistral"])
def folder(request):
    return GOLDEN / request.param


@pytest.fixture
def model(folder):
    return models.load(folder)


@pytest.fixture
def golden(folder):
    return open_safetensors(folder / "expected.safetensors")


def loss(model, golden):
    return ops.cross_entropy(model(Tensor(golden["ids"])), Tensor(golden["targets"]))


def test_logits_are_the_golden_ones(model, golden):
    with lcm.no_grad():
        found = model(Tensor(golden["ids"])).numpy()
    assert np.abs(found - golden["logits"]).max() <= 1e-4


def test_gradients_are_the_golden_ones(model, golden):
    model.train()
    loss(model, golden).backward()
    architecture = models._architecture({"model_type": model.model_type})
    names = [name.removeprefix("gradient.") for name in golden if name.startswith("gradient.")]
    assert len(names) >= 5
    for name in names:
        wanted = golden[f"gradient.{name}"]
        found = architecture.to_file(name, model.parameters()[name].grad.numpy())
        assert np.linalg.norm(found - wanted) <= 1e-4 * np.linalg.norm(wanted), name


def test_ten_losses_of_adamw_are_the_golden_ones_to_five_digits(model, golden):
    model.train()
    adamw = AdamW(model.parameters(), weight_decay=0.1, beta1=0.9, beta2=0.95, eps=1e-8)
    found = []
    for _ in range(10):
        y = loss(model, golden)
        y.backward()
        adamw.step(lr=1e-2)
        found.append(y.item())
    assert golden["losses"][-1] < golden["losses"][0] - 0.5, "it learns"
    np.testing.assert_allclose(found, golden["losses"], rtol=1e-5)


def test_the_greedy_continuation_is_the_golden_one(model, golden):
    decoder = Decoder(model)
    logits = decoder.prefill(golden["prompt"].tolist())
    text = []
    for _ in golden["greedy"]:
        text.append(int(np.argmax(logits)))
        logits = decoder.step(text[-1])
    assert text == golden["greedy"].tolist()
