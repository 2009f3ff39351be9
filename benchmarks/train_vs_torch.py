"""Training speed against PyTorch: a small GPT-2, each in processes of its own, in turn.

    pip install torch transformers
    python benchmarks/train_vs_torch.py --shape 6x384
    python benchmarks/train_vs_torch.py --shape 4x128
    python benchmarks/train_vs_torch.py --peers one-thread

`6x384` has nanoGPT's small shape: 6 layers, 384 wide, 6 heads, context 256; `4x128` has 4 layers, 128 wide, 4 heads,
context 64. Both have 65 tokens of vocabulary, a batch of 12, f32, AdamW. PyTorch runs transformers' GPT2LMHeadModel,
without dropout, eagerly and by `torch.compile`; `--gelu gelu_pytorch_tanh` helps its eager way a little. All begin from the same weights and see the same batches, and must
have the same losses. A step is a batch, its gradients, and AdamW; its time is the median of a process's steps, the
result is the median of the processes. Also: from the process's start to the end of its first step, and peak memory.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import record

SHAPES = {
    "6x384": {"n_positions": 256, "n_embd": 384, "n_layer": 6, "n_head": 6},
    "4x128": {"n_positions": 64, "n_embd": 128, "n_layer": 4, "n_head": 4},
}
# One function by two names: GPT-2's own, which transformers composes of five ops, and the one that PyTorch has a kernel for.
GELU = ("gelu_new", "gelu_pytorch_tanh")
VOCABULARY, BATCH = 65, 12
WARMUP = 3  # steps: memory is touched, kernels are chosen, programs are compiled
BETAS, DECAY, RATE = (0.9, 0.95), 0.1, 1e-3
Step = Callable[[np.ndarray, np.ndarray], float]


def lcm_step(folder: str, backend: str) -> Step:
    from lcm import models
    from lcm.backend.dispatch import use_backend
    from lcm.train.gradients import Gradients
    from lcm.train.optimizers import AdamW

    model = models.load(folder)
    model.train()
    adamw = AdamW(model.parameters(), weight_decay=DECAY, beta1=BETAS[0], beta2=BETAS[1])
    gradients = Gradients(model)

    def step(inputs: np.ndarray, targets: np.ndarray) -> float:
        with use_backend(backend) if backend != "auto" else nullcontext():
            loss = gradients.add(inputs, targets)
            adamw.step(lr=RATE)
        return loss

    return step


def torch_step(folder: str, compiled: bool) -> Step:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(int(os.environ.get("LCM_THREADS") or len(os.sched_getaffinity(0))))
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": DECAY},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=RATE, betas=BETAS)

    def loss_of(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = model(inputs, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    if compiled:
        loss_of = torch.compile(loss_of)

    def step(inputs: np.ndarray, targets: np.ndarray) -> float:
        loss = loss_of(torch.from_numpy(inputs).long(), torch.from_numpy(targets).long())
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        return loss.item()

    return step


def work(name: str, options: argparse.Namespace) -> None:
    """In a process of its own: print what its steps took."""
    step = (
        lcm_step(options.folder, options.backend)
        if name == "lcm"
        else torch_step(options.folder, compiled=name == "compile")
    )
    rng = np.random.default_rng(0)
    context = SHAPES[options.shape]["n_positions"]
    seconds, losses, first = [], [], 0.0
    for i in range(WARMUP + options.steps):
        text = rng.integers(0, VOCABULARY, (BATCH, context + 1)).astype(np.int32)
        started = time.perf_counter()
        losses.append(step(text[:, :-1].copy(), text[:, 1:].copy()))
        seconds.append(time.perf_counter() - started)
        if i == 0:
            first = time.time() - options.started
    print(json.dumps({
        "tokens_per_second": BATCH * context / statistics.median(seconds[WARMUP:]),
        "first_step_seconds": first,
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "losses": losses[:10],
    }))  # fmt: skip


def measure(name: str, folder: str, options: argparse.Namespace) -> dict[str, object]:
    environment, worker = os.environ, name
    if name == "one-thread":
        environment, worker = os.environ | {"LCM_THREADS": "1"}, "lcm"
    command = [sys.executable, "-W", "ignore", __file__, "--worker", worker, "--folder", folder,
               "--backend", options.backend, "--steps", str(options.steps), "--shape", options.shape,
               "--started", str(time.time())]  # fmt: skip
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return dict(json.loads(found.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=tuple(SHAPES), default="6x384")
    parser.add_argument("--gelu", choices=GELU, default=GELU[0], help="which name transformers is given")
    parser.add_argument("--backend", default="auto", help="where lcm runs; auto is as it comes")
    parser.add_argument("--peers", default="eager,compile", help="which of PyTorch's ways, one-thread (lcm's), or none")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each")
    parser.add_argument("--steps", type=int, default=8, help="timed steps in each")
    parser.add_argument(
        "--note", default="", help="recorded with the result, such as: busy machine"
    )
    for hidden in ("--worker", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options)
        return
    from lcm import models

    found: dict[str, list] = {n: [] for n in ("lcm", *filter(None, options.peers.split(",")))}
    with tempfile.TemporaryDirectory() as folder:
        config = {"model_type": "gpt2", "vocab_size": VOCABULARY, "activation_function": options.gelu, **SHAPES[options.shape]}
        models.save(models.fresh(config, seed=0), folder)
        for _ in range(options.rounds):
            for name, results in found.items():
                results.append(measure(name, folder, options))
                print(f"{name}: {results[-1]['tokens_per_second']:.0f} tokens/s", file=sys.stderr)
    keys = ("tokens_per_second", "first_step_seconds", "peak_megabytes")
    medians = {n: {k: statistics.median(r[k] for r in rs) for k in keys} for n, rs in found.items()}
    ours = found["lcm"][0]["losses"]
    apart = max(float(np.max(np.abs(np.subtract(r["losses"], ours)) / ours))
                for rs in found.values() for r in rs)  # fmt: skip
    ratios = {n: medians["lcm"]["tokens_per_second"] / m["tokens_per_second"]
              for n, m in medians.items() if n != "lcm"}  # fmt: skip
    record.append("train_vs_torch", {
        "shape": options.shape, "gelu": options.gelu, "backend": options.backend, "median": medians, "ratios": ratios,
        "losses_apart": apart, "note": options.note, "found": found,
    })  # fmt: skip
    rows = [(n, f"{m['tokens_per_second']:.0f}", f"{m['first_step_seconds']:.1f}", f"{m['peak_megabytes']:.0f}")
            for n, m in medians.items()]  # fmt: skip
    print(record.table(("who", "tokens/s", "first step after, s", "peak MB"), *rows))
    for name, ratio in ratios.items():
        print(f"\nlcm / {name} = {ratio:.3f}")
    print(f"\nlosses at most {apart:.1e} apart")


if __name__ == "__main__":
    main()
