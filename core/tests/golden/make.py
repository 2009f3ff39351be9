"""Write the golden files: tiny models with what PyTorch computes from them, in f64.

    pip install torch transformers
    python core/tests/golden/make.py

Run by hand, and only when a case is added: the numbers are to stay what they are. Each folder is a model
as transformers saves it, with `expected.safetensors` beside it:

    ids, targets        (2, 13) and (2, 13), i32; -100 is ignored
    logits              (2, 13, vocabulary), f32
    gradient.<name>     of the cross-entropy loss, for the parameters in GRADIENTS, as the file lays them out
    losses              (10,), f64: AdamW on that one batch, settings in ADAMW
    prompt, greedy      (5,) and (40,), i32: the likeliest continuation
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM

HERE = Path(__file__).parent
ADAMW = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8}
DECAY = 0.1  # for matrices alone
LLAMA = {
    "vocab_size": 61, "hidden_size": 20, "intermediate_size": 27, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
CASES = {
    "gpt2": {
        "vocab_size": 61, "n_positions": 64, "n_embd": 20, "n_layer": 2, "n_head": 2,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    },
    "llama": LLAMA | {"head_dim": 6, "tie_word_embeddings": True, "attention_bias": True},
    "mistral": LLAMA | {"sliding_window": 5, "head_dim": 8},
}  # fmt: skip
# A part of each name: the embedding, a projection, a gain of the last layer, and the last norm.
GRADIENTS = ("wte", "h.0.attn.c_attn", "h.1.mlp.c_proj", "h.1.ln_2", "ln_f", "embed_tokens",
             "layers.0.self_attn.k_proj.weight", "layers.1.mlp.down_proj",
             "layers.1.post_attention_layernorm", "model.norm")  # fmt: skip


def random_model(model_type: str, seed: int) -> torch.nn.Module:
    config = AutoConfig.for_model(
        model_type, **CASES[model_type], bos_token_id=None, eos_token_id=None
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # gains of 1 and biases of 0 would prove nothing
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def loss_of(model: torch.nn.Module, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = model(ids).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def expected(model: torch.nn.Module, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    text = torch.tensor(rng.integers(0, 61, (2, 14)))
    ids, targets = text[:, :-1], text[:, 1:].clone()
    targets[0, :3] = -100
    prompt = text[:1, :5]
    greedy = model.generate(prompt, max_new_tokens=40, do_sample=False, pad_token_id=0)[:, 5:]
    logits = model(ids).logits
    loss_of(model, ids, targets).backward()
    gradients = {
        f"gradient.{name}": parameter.grad.float().numpy().copy()
        for name, parameter in model.named_parameters()
        if any(part in name for part in GRADIENTS)
    }
    return gradients | {
        "ids": ids.int().numpy().copy(),
        "targets": targets.int().numpy().copy(),
        "logits": logits.detach().float().numpy(),
        "losses": np.array(train(model, ids, targets)),
        "prompt": prompt[0].int().numpy().copy(),
        "greedy": greedy[0].int().numpy().copy(),
    }


def train(model: torch.nn.Module, ids: torch.Tensor, targets: torch.Tensor) -> list[float]:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, **ADAMW)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = loss_of(model, ids, targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    for seed, model_type in enumerate(CASES):
        folder = HERE / model_type
        shutil.rmtree(folder, ignore_errors=True)
        model = random_model(model_type, seed)
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink()
        found = {
            name: np.ascontiguousarray(a) for name, a in expected(model.double(), seed).items()
        }
        save_file(found, folder / "expected.safetensors")
        print(f"{folder.name}: {sum(f.stat().st_size for f in folder.iterdir()) / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
