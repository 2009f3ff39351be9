"""Models of random numbers in the shape of Qwen2.5-Coder-0.5B, for `inference_vs_peers.py`: files for lcm and its peers.

    python benchmarks/make_models.py FOLDER --formats f32,bf16,f16,q8_0,q4_0,q4_k_m
    python benchmarks/make_models.py FOLDER --formats "" --converters PYTHON --peers ctranslate2-int8,onnxruntime-int4

FOLDER/hf is a Hugging Face folder in bf16, with a tokenizer as large as Qwen's, trained on the Python that runs and
what is installed beside it. FOLDER/<format>.gguf is written by `lcm convert`; FOLDER/<peer> by the peer's own
converter, in an environment that has it with torch and transformers: PYTHON is that environment's. What is there
already is not made again.
"""

import argparse
import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from lcm import models
from lcm.models.conversion import to_gguf
from lcm.text.pre_tokenizers import PRE_TOKENIZERS
from lcm.text.tokenizer import Tokenizer

SHAPE = {
    "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "hidden_act": "silu",
    "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 32768,
    "rope_theta": 1e6, "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "use_sliding_window": False,
}  # fmt: skip
TOKENS = 151643  # of Qwen2.5's tokenizer, without its control tokens
FORMATS = "q8_0,q4_0,q4_k_m,f16,bf16,f32"
CORPUS = 60_000_000  # characters that the tokenizer is trained on, at most

# The command that makes a peer's files, behind the interpreter: from {hf}, into {out}.
CONVERTERS = {
    "ctranslate2-int8": "-m ctranslate2.converters.transformers --model {hf} --output_dir {out} --quantization int8",
    "onnxruntime-int4": "-m onnxruntime_genai.models.builder -i {hf} -o {out} -p int4 -e cpu -c {out}.cache "
    "--extra_options int4_accuracy_level=4",
    "openvino-f32": "-m optimum.commands.optimum_cli export openvino --model {hf} --weight-format fp32 "
    "--task text-generation-with-past {out}",
    "openvino-int8": "-m optimum.commands.optimum_cli export openvino --model {hf} --weight-format int8 "
    "--task text-generation-with-past {out}",
    "openvino-int4": "-m optimum.commands.optimum_cli export openvino --model {hf} --weight-format int4 "
    "--task text-generation-with-past {out}",
}  # fmt: skip


def make_folder(folder: Path) -> None:
    """The Hugging Face folder."""
    tokenizer = Tokenizer.train(corpus(), vocabulary=TOKENS)
    model = models.fresh(SHAPE, seed=0)
    models.save(model, folder, format="bf16", extra={"eos_token_id": tokenizer.end})
    tokenizer.save(folder)
    cut_as_qwen(folder / "tokenizer.json")
    print(f"{folder}: {tokenizer.vocabulary:,} tokens in the tokenizer")


def cut_as_qwen(path: Path) -> None:
    """Let the tokenizer cut words as Qwen's does: llama.cpp knows that by name, and lcm's own not."""
    facts = json.loads(path.read_text(encoding="utf-8"))
    how = PRE_TOKENIZERS["qwen2"]
    facts |= {"pre_tokenizer": how.facts(), "normalizer": {"type": how.normalizer}}
    path.write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")


def corpus() -> Iterator[str]:
    """Python files of the standard library and of what is installed."""
    left = CORPUS
    for place in ("stdlib", "purelib"):
        for path in sorted(Path(sysconfig.get_path(place)).rglob("*.py")):
            text = path.read_text(encoding="utf-8", errors="replace")
            left -= len(text)
            if left < 0:
                return
            yield text


def convert(name: str, python: str, folder: Path) -> None:
    """By the peer's converter; one that fails is said, and the others are made."""
    places = {"hf": folder / "hf", "out": folder / name}
    command = [python, *(part.format(**places) for part in CONVERTERS[name].split())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        print(f"{name}: left out: its converter failed: {' '.join(last)}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--formats", default=FORMATS, help="of the GGUF files")
    parser.add_argument("--peers", default="", help=f"of {', '.join(CONVERTERS)}")
    parser.add_argument(
        "--converters", default=sys.executable, help="the Python that has the peers' converters"
    )
    options = parser.parse_args()
    if not (options.folder / "hf" / "config.json").exists():
        make_folder(options.folder / "hf")
    for format in filter(None, options.formats.split(",")):
        path = options.folder / f"{format}.gguf"
        if not path.exists():
            to_gguf(options.folder / "hf", path, format)
            print(f"{path}: {path.stat().st_size / 1e6:,.1f} MB")
    for name in filter(None, options.peers.split(",")):
        if not (options.folder / name).exists():
            convert(name, options.converters, options.folder)


if __name__ == "__main__":
    main()
