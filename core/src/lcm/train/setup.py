"""From paths and settings to a trainer: what `lcm train` does before the first step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcm import models
from lcm.errors import UsageError
from lcm.generate.loading import find_model
from lcm.text.tokenizer import Tokenizer
from lcm.train import checkpoint
from lcm.train.corpus import Corpus, collect, standard_library
from lcm.train.dataset import prepare
from lcm.train.plan import Plan
from lcm.train.trainer import SETTINGS, Trainer

Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Shape:
    """The shape of a new model."""

    architecture: str = "llama"
    layers: int = 4
    width: int = 256
    heads: int = 4
    key_heads: int = 2
    hidden: int = 704
    vocabulary: int = 4096
    positions: int = 0  # the longest text; 0: the context that it is trained with

    def config(self, vocabulary: int, context: int) -> dict[str, Any]:
        """The `config.json` of such a model."""
        positions = self.positions or context
        if positions < context:
            raise UsageError(f"positions {positions} are fewer than the context of {context}")
        if self.width % self.heads:
            raise UsageError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.architecture == "gpt2":
            return {
                "model_type": "gpt2", "vocab_size": vocabulary, "n_positions": positions,
                "n_embd": self.width, "n_layer": self.layers, "n_head": self.heads,
                "n_inner": self.hidden,
            }  # fmt: skip
        return {
            "model_type": self.architecture, "vocab_size": vocabulary,
            "max_position_embeddings": positions, "hidden_size": self.width,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads, "intermediate_size": self.hidden,
            "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
        }  # fmt: skip


def start(
    run: Path, paths: Sequence[str], plan: Plan, shape: Shape, *, base: str = "",
    tokenizer: str = "", progress: Progress | None = None,
) -> Trainer:  # fmt: skip
    """A new run in the folder `run`, of a fresh model or, to fine-tune, of the model `base`."""
    if checkpoint.latest(run):
        raise UsageError(
            f"{run} holds a run already: lcm train --resume {run}, or choose another --out"
        )
    sources = [str(Path(p).resolve()) for p in paths]
    corpus = corpus_of(sources)
    words = _tokenizer(corpus, shape, base, tokenizer)
    dataset = prepare(corpus, words, progress=progress)
    if base:
        model = models.load(find_model(base))
        if plan.context > model.context:
            raise UsageError(f"--context {plan.context} is more than the model's {model.context}")
    else:
        model = models.fresh(shape.config(_rounded(words.vocabulary), plan.context), plan.seed)
    dataset.train.windows(plan.context)  # too small a split is said before anything is written
    return Trainer(model, words, dataset, plan, run, sources)


def resume(run: Path, progress: Progress | None = None, **changes: Any) -> Trainer:
    """The run in the folder `run`, at its last checkpoint, with some settings changed."""
    plan, facts = Plan.load(run / SETTINGS)
    plan = Plan(**{**vars(plan), **changes})
    path = checkpoint.latest(run)
    if path is None:
        raise UsageError(f"{run}: no checkpoint there yet; start anew with lcm train --out")
    words = Tokenizer.load(path)
    dataset = prepare(corpus_of(facts["paths"]), words, progress=progress)
    trainer = Trainer(models.build(facts["model"]), words, dataset, plan, run, facts["paths"])
    trainer.resume(path)
    return trainer


def corpus_of(paths: Sequence[str]) -> Corpus:
    """The files to learn from; the running Python's standard library if none are given."""
    return collect([Path(p) for p in paths]) if paths else standard_library()


def _tokenizer(corpus: Corpus, shape: Shape, base: str, tokenizer: str) -> Tokenizer:
    if base:
        return Tokenizer.load(find_model(base))
    if tokenizer:
        return Tokenizer.load(tokenizer)
    return Tokenizer.train((d.read() for d in corpus.documents), vocabulary=shape.vocabulary)


def _rounded(vocabulary: int) -> int:
    """Up to a multiple of 64, which kernels like."""
    return -(-vocabulary // 64) * 64
