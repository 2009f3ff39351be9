"""How much sooner the second completion in a file comes: `lcm complete` twice, each in a process of its own.

    python benchmarks/second_completion.py --model qwen2.5-coder-0.5b-q8_0.gguf

The text is source code of Python's own library, of so many tokens. Between the two completions a line is
typed: at the end of the text, or with --middle in its middle, which is for models that fill gaps; --order
spm reads what is behind it first, in families that have learned it. The times are those of the prompt up to
the first token, as --json tells them, and of the whole process, which writes that one token and what it has
read; medians. What was read is forgotten before each pair.
"""

import argparse
import inspect
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import record

from lcm import settings
from lcm.generate.loading import find_model
from lcm.text.tokenizer import Tokenizer

TYPED = "\n    # The text is longer now.\n    if "


def code(tokenizer: Tokenizer, count: int) -> str:
    """So many tokens of source code."""
    ids = tokenizer.encode(inspect.getsource(argparse))
    return tokenizer.decode(ids[:count])


def gap(text: str, line: int, folder: Path) -> str:
    """The text in a file, with the start of a line as `lcm complete` takes it."""
    path = folder / "code.py"
    path.write_text(text, encoding="utf-8")
    return f"{path}:{line}:1"


def typed(text: str, middle: int | None) -> str:
    """The text after somebody wrote a line: at its end, or before a line of it."""
    if middle is None:
        return text + TYPED
    lines = text.split("\n")
    return "\n".join([*lines[: middle - 1], TYPED.strip(), *lines[middle - 1 :]])


def complete(
    model: str, prompt: str, environment: dict[str, str], order: str = ""
) -> dict[str, float]:
    lcm = shutil.which("lcm", path=str(Path(sys.executable).parent)) or "lcm"
    named = ".py:" in prompt and "\n" not in prompt
    command = [lcm, "complete", prompt if named else "-", "--model", model, "-n", "1", "--json"]
    command += ["--order", order] if order else []
    started = time.perf_counter()
    done = subprocess.run(
        command, input=None if named else prompt, check=True, capture_output=True, text=True, env=environment
    )
    wall = time.perf_counter() - started
    said = json.loads(done.stdout)
    facts = {name: said[name] for name in ("prompt_tokens", "reused_tokens", "prompt_seconds")}
    return facts | {"process_seconds": wall}


def pair(model: str, text: str, middle: bool, order: str, folder: Path) -> list[dict[str, float]]:
    """Both completions, of a cache that has the machine's measurements and no text."""
    shutil.rmtree(settings.cache_dir() / "prefixes", ignore_errors=True)
    line = text.count("\n") // 2 if middle else None
    environment = os.environ | {"LCM_CACHE_DIR": str(settings.cache_dir()), "LCM_TUNE": "off"}
    found = []
    for version in (text, typed(text, line)):
        more = version.count("\n") - text.count("\n")  # the gap is behind what was typed
        prompt = version if line is None else gap(version, line + more, folder)
        found.append(complete(model, prompt, environment, order))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a folder, a GGUF file or the name of a model")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--middle", action="store_true", help="complete, and type, in the text's middle")
    parser.add_argument("--order", default="", help="psm or spm, with --middle")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--note", default="", help="recorded with the result, such as: busy machine")
    options = parser.parse_args()
    text = code(Tokenizer.load(find_model(options.model)), options.tokens)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LCM_CACHE_DIR"] = str(Path(folder, "cache"))  # no text of the user's is forgotten
        complete(options.model, "x", dict(os.environ))  # backends are tried, files come into memory
        pairs = [pair(options.model, text, options.middle, options.order, Path(folder)) for _ in range(options.runs)]
    record.append("second_completion", {"pairs": pairs, "note": options.note})
    medians = [{n: statistics.median(p[i][n] for p in pairs) for n in pairs[0][i]} for i in (0, 1)]
    share = medians[1]["prompt_seconds"] / medians[0]["prompt_seconds"]
    print(record.table(
        ("", "prompt", "known", "to the first token, ms", "process, ms"),
        *((name, m["prompt_tokens"], m["reused_tokens"], f"{1e3 * m['prompt_seconds']:.0f}",
           f"{1e3 * m['process_seconds']:.0f}") for name, m in zip(("first", "second"), medians, strict=True)),
    ))  # fmt: skip
    print(f"the second's first token takes {share:.1%} of the first's")


if __name__ == "__main__":
    main()
