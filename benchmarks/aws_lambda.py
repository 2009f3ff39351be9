"""How long a function on AWS Lambda would take to start and to answer, in a process as small as its own.

    lcm quantize tinycode tinycode-q8.gguf --format q8_0
    python benchmarks/aws_lambda.py --model tinycode-q8.gguf

Each start is a new process with 1,769 MB of address space and one processor. It is Amazon's own runtime client
(`pip install awslambdaric`) where that is installed, talking to a Runtime API that this script serves; otherwise a
loop that calls the handler. Times within the process are told by a module around the handler: its import until the
model is mapped; each call; and in it the calls of the model, of which the rest is overhead.

Starts take turns: with an empty cache folder, as a new sandbox has one, with one that a start before has filled, and
with an empty one where plugins are not trusted and are tried again.
"""

import argparse
import json
import os
import queue
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import record

MEMORY = 1769 * 2**20
PROMPT = "def read_lines(path):\n    "
AROUND = """
import time

started = time.perf_counter()
from lcm.serve import aws_lambda as served  # noqa: E402

READY = time.perf_counter() - started
inside = []
complete = served._completion


def timed(*arguments):
    started = time.perf_counter()
    try:
        return complete(*arguments)
    finally:
        inside.append(time.perf_counter() - started)


served._completion = timed


def handler(event, context):
    inside.clear()
    started = time.perf_counter()
    answer = served.handler(event, context)
    took = time.perf_counter() - started
    return answer | {"times": {"ready": READY, "call": took, "model": sum(inside)}}
"""
LOOP = """
import json, sys
import around
print("{}", flush=True)
for line in sys.stdin:
    print(json.dumps(around.handler(json.loads(line), None)), flush=True)
"""


class RuntimeApi(BaseHTTPRequestHandler):
    """As much of Lambda's Runtime API as the client asks for: the next event, and where its answer goes."""

    protocol_version = "HTTP/1.1"
    wbufsize, disable_nagle_algorithm = -1, True  # a response is one packet, sent at once
    events: "queue.Queue[Any]"
    answers: "queue.Queue[Any]"

    def do_GET(self) -> None:
        self.answers.put(("asked", time.perf_counter(), None))
        event = self.events.get()
        if event is None:
            return
        self._send(200, json.dumps(event).encode(), {
            "Content-Type": "application/json",  # without it the client ends by a signal
            "Lambda-Runtime-Aws-Request-Id": "1",
            "Lambda-Runtime-Deadline-Ms": str(int(1000 * (time.time() + 60))),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:local:0:function:lcm",
        })  # fmt: skip

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        kind = "answer" if self.path.endswith("/response") else "error"
        self.answers.put((kind, time.perf_counter(), body))
        self._send(202, b"{}", {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A function that has been ended leaves its last request open: nothing to tell."""


class Function:
    """A started function: the seconds until it asked for its first event, and what it answers."""

    def __init__(self, environment: dict[str, str], folder: Path, cpu: int, client: bool) -> None:
        def confine() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            os.sched_setaffinity(0, [cpu])

        self._client = client
        if client:
            self._serve()
            environment["AWS_LAMBDA_RUNTIME_API"] = f"127.0.0.1:{self._server.server_port}"
        program = ["-m", "awslambdaric", "around.handler"] if client else ["-c", LOOP]
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, *program], cwd=folder, env=environment, preexec_fn=confine, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.started = self._next("asked")[0] - began

    def _serve(self) -> None:
        self._api = type("Api", (RuntimeApi,), {"events": queue.Queue(), "answers": queue.Queue()})
        self._server = Server(("127.0.0.1", 0), self._api)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _next(self, kind: str) -> tuple[float, Any]:
        if not self._client:
            line = self._process.stdout.readline()
            return time.perf_counter(), json.loads(line)
        while True:
            found, when, body = self._api.answers.get(timeout=60)
            if found == "error":
                sys.exit(f"the function failed: {body.decode()[:500]}")
            if found == kind:
                return when, json.loads(body) if body else None

    def call(self, event: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        """Seconds from the event to its answer, and that."""
        began = time.perf_counter()
        if self._client:
            self._api.events.put(event)
        else:
            self._process.stdin.write(json.dumps(event) + "\n")
            self._process.stdin.flush()
        when, answer = self._next("answer")
        if answer["status"] != 200:
            sys.exit(f"the function refused: {answer}")
        return when - began, answer

    def peak_memory(self) -> float:
        """MiB in memory at most, as Linux counts them."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(int(x.split()[1]) / 1024 for x in status.splitlines() if x.startswith("VmHWM"))

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()
        if self._client:
            self._api.events.put(None)
            self._server.shutdown()
            self._server.server_close()


@contextmanager
def function(options: argparse.Namespace, folder: Path, *, trusted: bool) -> Iterator[Function]:
    own = {
        "LCM_MODEL": str(Path(options.model).resolve()), "LCM_CACHE_DIR": str(folder / "cache"), "LCM_TUNE": "off",
        "LCM_TRUST": options.trust if trusted else "", "LCM_PREFIX_FILES": "0", "LCM_PREFIX_MEMORY": "256",
    }  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LCM_")}
    started = Function(kept | own, folder, options.cpu, options.client)
    try:
        yield started
    finally:
        started.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--starts", type=int, default=9, help="of each kind")
    parser.add_argument("--calls", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--trust", default="avx2,avx512,neon,sve,openblas", help="as LCM_TRUST")
    parser.add_argument(
        "--loop", action="store_true", help="without awslambdaric, also where it is"
    )
    parser.add_argument(
        "--note", default="", help="recorded with the result, such as: busy machine"
    )
    options = parser.parse_args()
    options.client = find_spec("awslambdaric") is not None and not options.loop
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "around.py").write_text(AROUND)
        starts = measure_starts(options, folder)
        calls = measure_calls(options, folder)
    record.append("aws_lambda", {"client": options.client, **starts, **calls, "note": options.note})
    milliseconds = [(what, *told(values)) for what, values in {**starts, **calls}.items() if values]
    print(record.table(("what", "least", "median", "most"), *milliseconds))


def told(values: list[float]) -> tuple[str, str, str]:
    middle = statistics.median(values)
    return f"{min(values):.4g}", f"{middle:.4g}", f"{max(values):.4g}"


def measure_starts(options: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Milliseconds, by the kind of start: from the import to the mapped model, and from the process's start."""
    kinds = {"new sandbox": True, "cache there": True, "plugins tried": False}
    found: dict[str, list[float]] = {}
    for turn in range(options.starts + 1):
        for kind, trusted in kinds.items():
            if kind != "cache there":
                shutil.rmtree(folder / "cache", ignore_errors=True)
            with function(options, folder, trusted=trusted) as one:
                first, answer = one.call({"prompt": PROMPT, "max_tokens": 1})
            if turn:  # the first turn brings files into the system's cache
                times = (answer["times"]["ready"], one.started, one.started + first)
                names = ("import + map", "process to ready", "process to first token")
                for name, seconds in zip(names, times, strict=True):
                    found.setdefault(f"{kind}: {name}, ms", []).append(1000 * seconds)
        print(f"{turn} of {options.starts} starts", file=sys.stderr)
    return found


def measure_calls(options: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Warm calls: milliseconds a token, around the model, and on the way; a batch of 100 prompts."""
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    with function(options, folder, trusted=True) as one:
        for turn in range(options.calls + 3):
            event = {"prompt": f"# {turn}\n{PROMPT}", "max_tokens": options.tokens}
            took, answer = one.call(event)
            if turn < 3:
                continue
            times = {name: 1000 * seconds for name, seconds in answer["times"].items()}
            note(
                "a token with its share of the prompt, ms",
                times["model"] / answer["completion_tokens"],
            )
            note("handler outside the model, ms", times["call"] - times["model"])
            note("client and API, ms", 1000 * took - times["call"])
        for turn in range(3):
            prompts = [f"# {turn} {i}\n{PROMPT}" for i in range(100)]
            _, answer = one.call({"prompts": prompts, "max_tokens": options.tokens})
            tokens = sum(c["completion_tokens"] for c in answer["completions"])
            note("batch of 100, s", answer["times"]["call"])
            note("batch of 100, tokens/s", tokens / answer["times"]["call"])
        note("peak memory, MiB", one.peak_memory())
    return found


if __name__ == "__main__":
    main()
