"""Taking in prompts and writing, against llama.cpp, CTranslate2, ONNX Runtime and OpenVINO: tokens a second.

    python benchmarks/make_models.py FOLDER
    python benchmarks/inference_vs_peers.py FOLDER --llama-bench PATH --onnxruntime PYTHON
    python benchmarks/inference_vs_peers.py FOLDER --llama-bench PATH --first-token

lcm and each peer take turns, a process each time: a prompt of 512 random tokens (prefill), and 128 tokens one by one
behind a single one (decode), as in llama-bench, of which lcm and llama.cpp leave the choice of a token out, and the
others do not; medians of the rounds. lcm and llama.cpp run the same GGUF files. `of reading` is the share of the
rate of reading memory, measured just before each turn, that decoding reads weights at. `AMX` says whether lcm has loaded a library for it,
llama.cpp has packed weights for it, or another process has asked Linux for it, as it must before its use.
`--first-token` times whole processes that take in 8 tokens and write one; also lcm's as if it had never seen the model.
What is missing is left out.

A peer that is a Python package is given by the interpreter that has it, llama.cpp by its llama-bench, and
`llama.cpp plain`, which is one compiled without AMX, by another. `--without-amx` asks all of them to do without, by
their own variables; what cannot, is left out or says that it had it.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import peaks
import record

from lcm.backend import discovery
from lcm.models.summary import summary

HERE = Path(__file__).parent
FORMATS = "q8_0,q4_0,q4_k_m,f16,bf16,f32"
PACKAGES = (  # folders of models
    "ctranslate2-int8", "onnxruntime-int4", "openvino-f32", "openvino-int8", "openvino-int4",
)  # fmt: skip
PEERS = "llama.cpp,llama.cpp plain,ctranslate2,onnxruntime,openvino"
PROMPT = "def read_lines(path):\n    with open"  # 8 tokens
WATCH = 0.02  # seconds between looks at a process's memory
# What keeps lcm, oneDNN and MKL from AMX, but leaves them VNNI.
WITHOUT_AMX = {
    "LCM_ISA_MASK": "amx_tile,amx_int8,amx_bf16",
    "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",
    "MKL_ENABLE_INSTRUCTIONS": "AVX512_E1",
}
LCM = "import sys; from lcm.cli import main; main(sys.argv[1:])"
# The same as if it had never seen the model; what it knows of the machine stays.
LCM_ANEW = """
import os, shutil, sys, tempfile
from lcm import settings
of_models = shutil.ignore_patterns("packed", "tokenizers", "prefixes")
with tempfile.TemporaryDirectory() as folder:
    os.environ["LCM_CACHE_DIR"] = shutil.copytree(settings.cache_dir(), f"{folder}/cache", ignore=of_models)
    from lcm.cli import main
    main(sys.argv[1:])
"""


@dataclass(frozen=True)
class Runner:
    """A program with a model: the command of a turn, and how its output tells the seconds."""

    name: str
    format: str
    weights: int  # bytes, all of which decoding reads for a token: the embedding is the head too
    command: Callable[[int], list[str]]  # with so many threads
    seconds: Callable[[str], dict]  # from standard output: prefill, decode, amx and version


@dataclass(frozen=True)
class Done:
    """A process that has ended well: its standard output, its seconds, and the most MiB that it had."""

    out: str
    seconds: float
    resident: float  # with the pages of mapped files
    anonymous: float  # without them


def run(command: list[str], threads: int) -> Done:
    environment = os.environ | {"LCM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        started, memory = time.perf_counter(), [(0.0, 0.0)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, env=environment
        )
        watching = threading.Thread(target=watch, args=(process, memory))
        watching.start()
        process.wait()
        took = time.perf_counter() - started
        watching.join()
        out.seek(0), errors.seek(0)
        if process.returncode:
            last = errors.read().strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
            raise RuntimeError(last[0])
        return Done(out.read(), took, *(max(sizes) for sizes in zip(*memory, strict=True)))


def watch(process: subprocess.Popen, memory: list[tuple[float, float]]) -> None:
    """Note its memory until it ends: what the system tells afterwards may be its parent's."""
    while process.poll() is None:
        with contextlib.suppress(OSError):  # it has just ended
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            sizes = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith(" kB")}
            if {"VmHWM", "RssAnon"} <= set(sizes):
                memory.append((int(sizes["VmHWM"]) / 1024, int(sizes["RssAnon"]) / 1024))
        time.sleep(WATCH)


def lcm_runner(path: Path, options: argparse.Namespace) -> Runner:
    def seconds(_: str) -> dict:
        rows = [json.loads(line) for line in found.read_text().splitlines()[1:]]
        found.unlink()
        prompt, text = sorted(rows, key=lambda row: row["case"]["test"])
        return {"prefill": sum(prompt["seconds"]), "decode": sum(text["seconds"]), "amx": uses_amx,
                "version": version("lcm"), "choice_ms": text["figures"]["choice ms"]}  # fmt: skip

    found = Path(tempfile.gettempdir()) / f"inference-{os.getpid()}.jsonl"
    uses_amx = "amx" in Path(discovery.open_backend("avx512").library or "").name
    command = [sys.executable, "-c", LCM, "bench", "generate", "-m", str(path), "-r", "1",
               "-p", str(options.prompt), "-n", str(options.tokens), "--json-lines", str(found)]  # fmt: skip
    return Runner("lcm", path.stem, summary(path).weights, lambda _: command, seconds)


def llama_runner(name: str, program: str, path: Path, options: argparse.Namespace) -> Runner:
    def seconds(out: str) -> dict:
        prompt, text = sorted(json.loads(out), key=lambda test: test["n_gen"])
        return {"prefill": prompt["samples_ns"][0] / 1e9, "decode": text["samples_ns"][0] / 1e9,
                "amx": uses_amx, "version": prompt["build_commit"]}  # fmt: skip

    look = [program, "-m", str(path), "-p", "1", "-n", "0", "-r", "1", "-v"]
    said = subprocess.run(look, capture_output=True, text=True, check=False)
    uses_amx = "AMX model buffer" in said.stderr + said.stdout
    command = [program, "-m", str(path), "-r", "1", "-o", "json", "-p", str(options.prompt),
               "-n", str(options.tokens)]  # fmt: skip
    weights = summary(path).weights
    return Runner(name, path.stem, weights, lambda threads: [*command, "-t", str(threads)], seconds)


def package_runner(name: str, python: str, folder: Path, format: str, options: argparse.Namespace) -> Runner:
    command = [python, str(HERE / "peer.py"), name, str(folder), "--prompt", str(options.prompt),
               "--tokens", str(options.tokens)]  # fmt: skip
    largest = max(path.stat().st_size for path in folder.iterdir())
    return Runner(
        name, format, largest, lambda threads: [*command, "--threads", str(threads)],
        lambda out: json.loads(out.splitlines()[-1]),
    )  # fmt: skip


def runners(options: argparse.Namespace) -> Iterator[Runner]:
    """What there is to run; what is missing is said."""
    wanted = options.peers.split(",")
    programs = {"llama.cpp": options.llama_bench, "llama.cpp plain": options.llama_bench_plain}
    if options.without_amx:  # how it was compiled is how it runs
        del programs["llama.cpp"]
    for format in filter(None, options.formats.split(",")):
        path = options.folder / f"{format}.gguf"
        if not path.exists():
            print(f"left out: {path} is not there", file=sys.stderr)
            continue
        yield lcm_runner(path, options)
        for name in filter(wanted.__contains__, programs):
            if programs[name]:
                yield llama_runner(name, programs[name], path, options)
            else:
                print(f"left out: {name} {format}: its llama-bench is not given", file=sys.stderr)
    for name, format in (tuple(folder.split("-")) for folder in PACKAGES):
        folder, python = options.folder / f"{name}-{format}", getattr(options, name)
        if name in wanted and python and folder.exists():
            yield package_runner(name, python, folder, format, options)
        elif name in wanted:
            print(f"left out: {name} {format}: --{name} or {folder} is missing", file=sys.stderr)


def turn(runner: Runner, threads: int, times: list[dict]) -> None:
    """One turn, and how fast memory is read just before it: a shared machine has better moments and worse ones."""
    limit = peaks.read_now(threads)
    done = run(runner.command(threads), threads)
    memory = {"resident": done.resident, "anonymous": done.anonymous}
    times.append({**runner.seconds(done.out), **memory, "read": limit})


def measure(found: list[Runner], threads: int, options: argparse.Namespace) -> list[dict]:
    """Rounds of turns: each round begins with another one."""
    limits = peaks.int8_peaks(threads)
    times: dict[int, list[dict]] = {i: [] for i in range(len(found))}
    for number in range(options.rounds):
        for i in [*range(number % len(found), len(found)), *range(number % len(found))]:
            print(
                f"round {number + 1}, {threads} threads: {found[i].name} {found[i].format}", file=sys.stderr
            )
            try:
                turn(found[i], threads, times[i])
            except RuntimeError as error:
                print(f"left out: {found[i].name} {found[i].format}: {error}", file=sys.stderr)
    limits["read"] = max(t["read"] for its in times.values() for t in its)
    return [told(found[i], threads, its, limits, options) for i, its in times.items() if its]


def told(runner: Runner, threads: int, times: list[dict], limits: dict, options: argparse.Namespace) -> dict:
    decode = options.tokens / statistics.median(t["decode"] for t in times)
    shares = [runner.weights * options.tokens / t["decode"] / t["read"] / 1e9 for t in times]
    return {
        "name": runner.name, "format": runner.format, "threads": threads, "amx": times[0]["amx"],
        "prefill": options.prompt / statistics.median(t["prefill"] for t in times), "decode": decode,
        "of_reading": statistics.median(shares),
        "resident": max(t["resident"] for t in times), "anonymous": max(t["anonymous"] for t in times),
        "weights": runner.weights, "limits": limits, "turns": times,
    }  # fmt: skip


def line(row: dict) -> tuple[str, ...]:
    share = f"{100 * row['of_reading']:.0f} %"
    amx = {True: "yes", False: "no", None: "?"}[row["amx"]]
    return (row["format"], row["name"], str(row["threads"]), f"{row['prefill']:.0f}", f"{row['decode']:.1f}", share,
            f"{row['resident']:,.0f}", f"{row['anonymous']:,.0f}", amx)  # fmt: skip


def first_tokens(options: argparse.Namespace) -> list[dict]:
    """Whole processes of lcm and of llama.cpp in turn, the first of each not counted."""
    found = []
    for threads in map(int, options.threads.split(",")):
        for format in filter(None, options.formats.split(",")):
            commands = starting(options.folder / f"{format}.gguf", threads, options)
            times: dict[str, list[float]] = {name: [] for name in commands}
            for number in range(1 + options.rounds):
                for name, command in commands.items():
                    print(f"round {number}, {threads} threads: {name} {format}", file=sys.stderr)
                    times[name].append(run(command, threads).seconds)
            found += [{"name": n, "format": format, "threads": threads, "first": t[0], "seconds": t[1:]}
                      for n, t in times.items()]  # fmt: skip
    return found


def starting(model: Path, threads: int, options: argparse.Namespace) -> dict[str, list[str]]:
    """The commands that write one token."""
    asked = ["-m", str(model), "-n", "1"]
    programs = {"lcm": LCM, "lcm, its first time": LCM_ANEW}
    commands = {
        name: [sys.executable, "-c", program, "complete", PROMPT, *asked, "--whole"]
        for name, program in programs.items()
    }
    if options.llama_bench:
        program = str(Path(options.llama_bench).with_name("llama-completion"))
        spare = ["-no-cnv", "--no-warmup", "-c", "512", "-t", str(threads)]
        commands["llama.cpp"] = [program, "-p", PROMPT, *asked, *spare]
    return commands


def first_line(row: dict) -> tuple[str, ...]:
    times = sorted(row["seconds"])
    return (row["format"], row["name"], str(row["threads"]), f"{1e3 * statistics.median(times):.0f}",
            f"{1e3 * times[0]:.0f} … {1e3 * times[-1]:.0f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what make_models.py made")
    parser.add_argument("--formats", default=FORMATS, help='of the GGUF files; "" for none')
    parser.add_argument("--threads", default="2,1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--peers", default=PEERS, help="lcm always runs")
    parser.add_argument("--llama-bench", metavar="PATH")
    parser.add_argument("--llama-bench-plain", metavar="PATH", help="built for no AMX")
    for name in ("ctranslate2", "onnxruntime", "openvino"):
        parser.add_argument(f"--{name}", metavar="PYTHON", help=f"the interpreter that has {name}")
    parser.add_argument("--first-token", action="store_true", help="measure starting instead")
    parser.add_argument("--note", default="", help="recorded with the result, such as: busy machine")
    parser.add_argument("--without-amx", action="store_true", help="by variables of the environment")
    options = parser.parse_args()
    if options.without_amx:
        os.environ.update(WITHOUT_AMX)
    if options.first_token:
        found = first_tokens(options)
        record.append("inference_vs_peers", {"first_token": found, "note": options.note})
        print(record.table(("format", "by", "threads", "median, ms", "range, ms"), *map(first_line, found)))
        return
    there = list(runners(options))
    found = [row for threads in options.threads.split(",") for row in measure(there, int(threads), options)]
    record.append("inference_vs_peers", {"found": found, "note": options.note})
    head = ("format", "by", "threads", f"prefill {options.prompt}, t/s", f"decode {options.tokens}, t/s",
            "of reading", "peak, MiB", "not mapped", "AMX")  # fmt: skip
    print(record.table(head, *map(line, found)))
    choices = [turn["choice_ms"] for row in found for turn in row["turns"] if "choice_ms" in turn]
    if choices:
        print(f"\nlcm's choice of a token takes {statistics.median(choices):.2f} ms on top")
    for threads, limits in {row["threads"]: row["limits"] for row in found}.items():
        print(f"\n{threads} threads can at best: {limits}")


if __name__ == "__main__":
    main()
