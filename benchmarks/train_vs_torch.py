"""Training speed against PyTorch: tokens per second of a small GPT-2, each in processes of its own, in turn.

    pip install torch transformers
    python benchmarks/train_vs_torch.py

The model has nanoGPT's small shape: 6 layers, 384 wide, 6 heads, context 256, batch 12, 65 tokens, f32, AdamW.
lcm runs on `--backend` (openblas), torch eagerly with transformers' GPT2LMHeadModel, without dropout. A step
is a batch, its gradients, and AdamW; its time is the median of a process's steps, the result is the median
of the processes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import record

from lcm import host

SHAPE = {"model_type": "gpt2", "vocab_size": 65, "n_positions": 256, "n_embd": 384, "n_layer": 6,
         "n_head": 6}  # fmt: skip
CONTEXT, BATCH = 256, 12
WARMUP = 2  # steps: memory is touched, kernels are chosen
BETAS, DECAY, RATE = (0.9, 0.95), 0.1, 1e-3
Step = Callable[[np.ndarray, np.ndarray], float]


def lcm_step(backend: str) -> Step:
    from lcm import models, ops
    from lcm.backend.dispatch import use_backend
    from lcm.tensor import Tensor
    from lcm.train.optimizers import AdamW

    model = models.fresh(SHAPE, seed=0)
    model.train()
    adamw = AdamW(model.parameters(), weight_decay=DECAY, beta1=BETAS[0], beta2=BETAS[1])

    def step(inputs: np.ndarray, targets: np.ndarray) -> float:
        with use_backend(backend):
            loss = ops.cross_entropy(model(Tensor(inputs)), Tensor(targets))
            loss.backward()
            adamw.step(lr=RATE)
        return loss.item()

    return step


def torch_step() -> Step:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(host.current().threads())
    values = {k: v for k, v in SHAPE.items() if k != "model_type"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **values)).eval()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": DECAY},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=RATE, betas=BETAS)

    def step(inputs: np.ndarray, targets: np.ndarray) -> float:
        logits = model(torch.from_numpy(inputs).long()).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), torch.from_numpy(targets).long().flatten()
        )
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        return loss.item()

    return step


def work(name: str, backend: str, steps: int) -> None:
    """In a process of its own: print the median time of a step."""
    step = lcm_step(backend) if name == "lcm" else torch_step()
    rng = np.random.default_rng(0)
    seconds = []
    for _ in range(WARMUP + steps):
        text = rng.integers(0, SHAPE["vocab_size"], (BATCH, CONTEXT + 1)).astype(np.int32)
        started = time.perf_counter()
        step(text[:, :-1].copy(), text[:, 1:].copy())
        seconds.append(time.perf_counter() - started)
    print(json.dumps(statistics.median(seconds[WARMUP:])))


def measure(name: str, options: argparse.Namespace) -> float:
    """Tokens per second of one process."""
    command = [sys.executable, "-W", "ignore", __file__, "--worker", name, "--backend", options.backend,
               "--steps", str(options.steps)]  # fmt: skip
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return BATCH * CONTEXT / float(found.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="openblas", help="where lcm runs")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each")
    parser.add_argument("--steps", type=int, default=8, help="timed steps in each")
    parser.add_argument("--note", default="", help="recorded with the result, such as: busy machine")
    parser.add_argument("--worker", choices=("lcm", "torch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.backend, options.steps)
        return
    speeds: dict[str, list[float]] = {"lcm": [], "torch": []}
    for _ in range(options.rounds):
        for name, found in speeds.items():
            found.append(measure(name, options))
            print(f"{name}: {found[-1]:.0f} tokens/s", file=sys.stderr)
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    ratio = medians["lcm"] / medians["torch"]
    record.append("train_vs_torch", {
        "backend": options.backend, "tokens_per_second": speeds, "median": medians,
        "ratio": ratio, "note": options.note,
    })  # fmt: skip
    rows = [(name, f"{medians[name]:.0f}", f"{min(found):.0f} … {max(found):.0f}")
            for name, found in speeds.items()]  # fmt: skip
    print(record.table(("who", "tokens/s, median", "range"), *rows))
    print(f"\nlcm / torch = {ratio:.3f}")


if __name__ == "__main__":
    main()
