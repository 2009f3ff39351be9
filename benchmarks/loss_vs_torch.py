"""Whether lcm learns what PyTorch learns: both train one model on the same batches of the standard library.

    pip install torch transformers
    python benchmarks/loss_vs_torch.py
    python benchmarks/loss_vs_torch.py --architecture llama

The initial weights, batches, learning rates, clipping and weight decay are the same; the loop, the
gradients and the optimiser are each one's own. It fails if the validation losses differ by more than 1 %.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import record
import torch
from transformers import AutoModelForCausalLM

from lcm import models
from lcm.backend import dispatch
from lcm.text.tokenizer import Tokenizer
from lcm.train.corpus import standard_library
from lcm.train.dataset import Dataset, prepare
from lcm.train.plan import Plan
from lcm.train.schedule import learning_rate
from lcm.train.setup import Shape
from lcm.train.split import IGNORE
from lcm.train.trainer import Evaluated, Trainer

SHAPE = {"layers": 4, "width": 128, "heads": 4, "key_heads": 2, "hidden": 344}
VOCABULARY = 1024
TOLERANCE = 0.01


def train_lcm(folder: Path, tokenizer: Tokenizer, dataset: Dataset, plan: Plan) -> float:
    model = models.load(folder)
    events = Trainer(model, tokenizer, dataset, plan, folder).run()
    return [e.validation_loss for e in events if isinstance(e, Evaluated)][-1]


def train_torch(folder: Path, dataset: Dataset, plan: Plan) -> float:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()  # eval: without dropout, as lcm
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": plan.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    for step in range(1, plan.steps + 1):
        inputs, targets = dataset.train.batch(
            (step - 1) * plan.batch, batch=plan.batch, context=plan.context, seed=plan.seed
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(
                step, steps=plan.steps, peak=plan.lr, warmup=plan.warmup, shape=plan.schedule,
                final=plan.final,
            )  # fmt: skip
        optimizer.zero_grad()
        _loss(model, inputs, targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        optimizer.step()
    total, count = 0.0, 0
    with torch.no_grad():
        for inputs, targets in dataset.validation.evaluation_batches(
            plan.batch, plan.context, limit=plan.evaluate_batches
        ):
            counted = int((targets != IGNORE).sum())
            total += _loss(model, inputs, targets).item() * counted
            count += counted
    return total / count


def _loss(model, inputs, targets):
    logits = model(torch.from_numpy(inputs).long()).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.from_numpy(targets).long().flatten(), ignore_index=IGNORE
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", choices=("gpt2", "llama"), default="gpt2")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    plan = Plan(steps=options.steps, batch=8, context=128, warmup=20, lr=2e-3,
                evaluate_every=options.steps, evaluate_batches=40, save_every=options.steps)  # fmt: skip
    corpus = standard_library()
    tokenizer = Tokenizer.train((d.read() for d in corpus.documents[::10]), vocabulary=VOCABULARY)
    dataset = prepare(corpus, tokenizer)
    shape = Shape(architecture=options.architecture, vocabulary=VOCABULARY, **SHAPE)
    result = {"architecture": options.architecture, "steps": plan.steps, "dataset": dataset.fingerprint}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        models.save(models.fresh(shape.config(VOCABULARY, plan.context), seed=0), folder)
        for name, train in (
            ("lcm", lambda: train_lcm(folder, tokenizer, dataset, plan)),
            ("torch", lambda: train_torch(folder, dataset, plan)),
        ):
            started = time.perf_counter()
            result[name] = train()
            print(f"{name}: {result[name]:.5f} nats per token, {time.perf_counter() - started:.0f} s")
    result["ran"] = dispatch.ran()
    result["difference"] = abs(result["lcm"] - result["torch"]) / result["torch"]
    record.append("loss_vs_torch", result)
    print(record.table(
        ("model", "steps", "lcm", "torch", "difference"),
        (options.architecture, plan.steps, f"{result['lcm']:.5f}", f"{result['torch']:.5f}",
         f"{result['difference']:.4%}"),
    ))  # fmt: skip
    return int(result["difference"] > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
