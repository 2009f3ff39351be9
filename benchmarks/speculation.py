"""How much faster a text comes that mostly repeats another, as an edited file does, where tokens are guessed.

    python benchmarks/speculation.py --model qwen2.5-coder-0.5b-q8_0.gguf

The prompt is source code of Python's own library, and what is written is the same code with a name replaced
throughout. The model does not choose it: each token is given, whatever the model's logits say, since which
tokens a model would choose is no matter of speed, and one that does not edit well would measure something
else. What is measured is how fast it takes them, and how many of its guesses are those of a real edit.
Both ways take turns; medians. The logits of both are compared, and must be equal in every bit.
"""

import argparse
import hashlib
import inspect
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import record

from lcm.generate.decoder import Decoder
from lcm.generate.loading import load_model
from lcm.generate.speculation import NGrams, Rows, Speculation

OLD, NEW = "action", "deed"


def take_in(step: Callable[[int], np.ndarray], text: Sequence[int]) -> tuple[float, str]:
    """Seconds for the text, and what its logits add up to, bit by bit; that is not in the time."""
    seconds, bits = 0.0, hashlib.sha256()
    for token in text:
        started = time.perf_counter()
        logits = step(token)
        seconds += time.perf_counter() - started
        bits.update(logits.tobytes())
    return seconds, bits.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a folder, a GGUF file or the name of a model")
    parser.add_argument(
        "--tokens", type=int, default=400, help="of the code; the edited one has about as many"
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--note", default="", help="recorded with the result, such as: busy machine")
    options = parser.parse_args()
    loaded = load_model(options.model)
    encode, decode = loaded.tokenizer.encode, loaded.tokenizer.decode
    code = decode(encode(inspect.getsource(argparse.ArgumentParser))[: options.tokens])
    prompt, edited = encode(code), encode(code.replace(OLD, NEW))
    if (both := len(prompt) + len(edited)) > loaded.model.context:
        parser.error(f"both texts are {both} tokens, and the model's context is {loaded.model.context}")
    rows, plain, guessed = Rows(), [], []
    for _ in range(options.runs):
        decoder = Decoder(loaded.model)
        decoder.prefill(prompt)
        seconds, bits = take_in(decoder.step, edited)
        plain.append(len(edited) / seconds)
        decoder = Decoder(loaded.model)
        decoder.prefill(prompt)
        speculation = Speculation(decoder, NGrams(), rows, prompt)
        seconds, its = take_in(speculation.step, edited)
        guessed.append(len(edited) / seconds)
        if its != bits:
            raise SystemExit("the logits differ; that must not be")
    share = speculation.accepted / len(edited)
    result = {"model": options.model, "tokens": len(edited), "rates": {"steps": plain, "guessing": guessed},
              "drafted": speculation.drafted, "accepted": speculation.accepted, "note": options.note}  # fmt: skip
    record.append("speculation", result)
    slow, fast = statistics.median(plain), statistics.median(guessed)
    print(record.table(
        ("tokens", "one by one, tokens/s", "guessing, tokens/s", "times as fast", "guessed right"),
        (len(edited), f"{slow:.1f}", f"{fast:.1f}", f"{fast / slow:.2f}", f"{share:.0%}"),
    ))  # fmt: skip


if __name__ == "__main__":
    main()
