"""One turn of a peer that is a Python package, for `inference_vs_peers.py`, run by the interpreter that has it.

    PYTHON benchmarks/peer.py ctranslate2 FOLDER --threads 2 --prompt 512 --tokens 128

Takes in a prompt, and writes behind a single token, greedily, each once uncounted and once counted, and prints the
seconds of both as a line of JSON. Needs nothing but the peer and numpy.
"""

import argparse
import ctypes
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version

import numpy as np

VOCABULARY = 151643  # the ids of a prompt's tokens are below
GET_PERMISSIONS, TILE_DATA = 0x1022, 18  # of Linux's arch_prctl, which AMX has to be asked of before its use
ARCH_PRCTL = 158  # on x86-64

# A text of so many tokens behind these: a step for the prompt and the first token, and one for each further one.
Text = Callable[[list[int], int], Iterator[None]]


def ctranslate2(folder: str, threads: int) -> Text:
    import ctranslate2

    generator = ctranslate2.Generator(folder, device="cpu", intra_threads=threads, compute_type="auto")
    with open(f"{folder}/vocabulary.json", encoding="utf-8") as file:
        names = json.load(file)

    def text(ids: list[int], tokens: int) -> Iterator[None]:
        words = [names[id] for id in ids]
        yield from (None for _ in generator.generate_tokens(words, max_length=tokens, min_length=tokens))

    return text


def onnxruntime(folder: str, threads: int) -> Text:
    import onnxruntime_genai

    config = onnxruntime_genai.Config(folder)
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = onnxruntime_genai.Model(config)

    def text(ids: list[int], tokens: int) -> Iterator[None]:
        parameters = onnxruntime_genai.GeneratorParams(model)
        length = len(ids) + tokens
        parameters.set_search_options(do_sample=False, max_length=length, min_length=length)
        generator = onnxruntime_genai.Generator(model, parameters)
        generator.append_tokens(np.array(ids, np.int32))
        for _ in range(tokens):
            generator.generate_next_token()
            yield

    return text


def openvino(folder: str, threads: int) -> Text:
    """The model with its state, without a tokenizer and a scheduler around it: the argmax is numpy's."""
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if folder.endswith("f32"):  # it would round to bf16 where the processor has products of that
        options["INFERENCE_PRECISION_HINT"] = "f32"
    model = openvino.Core().compile_model(f"{folder}/openvino_model.xml", "CPU", options)
    request = model.create_infer_request()

    def text(ids: list[int], tokens: int) -> Iterator[None]:
        request.reset_state()
        new, length = np.array([ids]), 0
        for _ in range(tokens):
            places = np.arange(length, length + new.size)[None]
            length += new.size
            found = request.infer({"input_ids": new, "attention_mask": np.ones((1, length), np.int64),
                                   "position_ids": places, "beam_idx": np.zeros(1, np.int32)})  # fmt: skip
            new = np.array([[int(next(iter(found.values()))[0, -1].argmax())]])
            yield

    return text


DISTRIBUTIONS = {"onnxruntime": "onnxruntime-genai"}
PEERS = {"ctranslate2": ctranslate2, "onnxruntime": onnxruntime, "openvino": openvino}


def prefill(text: Text, prompt: int) -> float:
    """Seconds until the first token is there."""
    ids = np.random.default_rng(0).integers(0, VOCABULARY, prompt).tolist()
    started = time.perf_counter()
    for _ in text(ids, 1):
        pass
    return time.perf_counter() - started


def decode(text: Text, tokens: int) -> float:
    """Seconds of so many tokens, the first not counted, which comes with the prompt."""
    steps = text([1], 1 + tokens)
    next(steps)
    started = time.perf_counter()
    count = sum(1 for _ in steps)
    if count != tokens:
        raise SystemExit(f"{count} tokens came instead of {tokens}")
    return time.perf_counter() - started


def may_use_amx() -> bool | None:
    """Whether something in this process has asked Linux for AMX; None where that cannot be known."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    mask = ctypes.c_uint64()
    failed = ctypes.CDLL(None).syscall(ARCH_PRCTL, GET_PERMISSIONS, ctypes.byref(mask))
    return None if failed else bool(mask.value >> TILE_DATA & 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("folder")
    for name in ("threads", "prompt", "tokens"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    text = PEERS[options.peer](options.folder, options.threads)
    prefill(text, options.prompt), decode(text, 4)
    found = {"prefill": prefill(text, options.prompt), "decode": decode(text, options.tokens)}
    release = version(DISTRIBUTIONS.get(options.peer, options.peer))
    print(json.dumps({**found, "amx": may_use_amx(), "version": release}))


if __name__ == "__main__":
    main()
