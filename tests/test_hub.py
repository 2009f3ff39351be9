"""Models from a hub: `huggingface_hub` itself, with a server of the few addresses that it asks for."""

import hashlib
import json
import os
import re
import resource
import subprocess
import sys
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from lcm import models
from lcm.models.conversion import to_gguf
from lcm.text.tokenizer import Tokenizer

COMMIT, OTHER = "c" * 40, "d" * 40
NAME = "hub:maker/tiny"
MODEL = {"model_type": "llama", "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64,
         "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}  # fmt: skip
NEEDED = {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}


class Hub(ThreadingHTTPServer):
    """Repositories by name, each with its files by name; what was asked for, and what shall go wrong."""

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Answers)
        self.files = files
        self.gated = False
        self.sums = {}  # of files whose checksum shall be another
        self.drop = {}  # how many bytes of a file come before the connection breaks, once
        self.asked = []
        Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def fetched(self):
        return {file for method, file, _ in self.asked if method == "GET"}


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        hub, path = self.server, self.path.split("?")[0].strip("/")
        if path.startswith("api/models/maker/tiny/tree/"):
            return self.say(200, json.dumps([
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                for name, data in hub.files.items()]).encode())  # fmt: skip
        repository, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        if repository != "maker/tiny":
            return self.say(401, **{"X-Error-Code": "RepoNotFound"})
        if hub.gated:
            return self.say(403, **{"X-Error-Code": "GatedRepo"})
        if revision not in ("main", "v2", COMMIT, OTHER):
            return self.say(404, **{"X-Error-Code": "RevisionNotFound"})
        commit = OTHER if revision in ("v2", OTHER) else COMMIT
        if file not in hub.files:
            return self.say(404, **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        self.give(file, commit)

    def give(self, file, commit):
        hub, data = self.server, self.server.files[file]
        asked = self.headers.get("Range")
        hub.asked.append((self.command, file, asked))
        if file.endswith((".safetensors", ".gguf")):
            tag = hub.sums.get(file) or hashlib.sha256(data).hexdigest()
        else:
            tag = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        facts = {"X-Repo-Commit": commit, "ETag": f'"{tag}"', "X-Linked-Etag": f'"{tag}"',
                 "X-Linked-Size": str(len(data)), "Accept-Ranges": "bytes"}  # fmt: skip
        if not asked:
            until = hub.drop.pop(file, None) if self.command == "GET" else None
            return self.say(200, data, until=until, **facts)
        first = int(asked.removeprefix("bytes=").partition("-")[0])
        facts["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        self.say(206, data[first:], **facts)

    def say(self, code, body=b"", until=None, **headers):
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:until])
            if until is not None:
                self.close_connection = True


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model as a hub has it: a folder, a GGUF file of it, and what nobody here needs."""
    folder = tmp_path_factory.mktemp("hub")
    models.save(models.fresh(MODEL, seed=1), folder)
    Tokenizer.train(["def f(x):\n    return x\n"] * 4, vocabulary=300).save(folder)
    to_gguf(folder, folder / "tiny-q8_0.gguf", "q8_0")
    for name in ("pytorch_model.bin", "README.md", "model.onnx"):
        (folder / name).write_bytes(b"not needed")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(files):
    hub = Hub(dict(files))
    yield hub
    hub.shutdown()
    hub.server_close()


@pytest.fixture
def ask(lcm, hub, tmp_path):
    """Run a command that may use the hub, with a cache of its own."""

    def ask(*arguments, run=lcm, **more):
        own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "",
               "HF_HUB_DISABLE_XET": "1", "LCM_CACHE_DIR": str(tmp_path / "cache")}  # fmt: skip
        return run(*arguments, cwd=tmp_path, **(own | more))

    return ask


@pytest.fixture
def refusal(ask, refused):
    def refusal(code, *arguments, **more):
        return ask(code, *arguments, run=refused, **more)

    return refusal


def blobs(tmp_path):
    return sorted((tmp_path / "hf").rglob("blobs/*"))


def test_a_folder_comes_with_what_is_needed_and_nothing_else(ask, hub):
    done = ask("complete", "def f(", "--model", NAME, "-n", 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("def f(")
    assert hub.fetched() == NEEDED


def test_what_came_is_what_the_hub_has(ask, hub, files, tmp_path):
    found = json.loads(ask("show", NAME, "--json").stdout)
    folder = Path(found["path"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        n: files[n] for n in NEEDED
    }
    assert tmp_path / "hf" in folder.parents and folder.name == COMMIT


def test_a_second_time_nothing_is_fetched(ask, hub):
    assert ask("show", NAME).returncode == 0
    hub.asked.clear()
    assert ask("show", NAME).returncode == 0
    assert not hub.fetched()


def test_one_gguf_file_of_many_comes_alone(ask, hub):
    hub.files["other-q4_0.gguf"] = b"other"
    done = ask("complete", "def f(", "--model", f"{NAME}:tiny-q8_0.gguf", "-n", 2)
    assert done.returncode == 0, done.stderr
    assert hub.fetched() == {"tiny-q8_0.gguf"}


def test_a_gguf_file_in_parts_comes_whole(ask, hub):
    hub.files |= {f"q8/tiny-0000{n}-of-00002.gguf": b"part %d" % n for n in (1, 2)}
    ask("show", f"{NAME}:q8/tiny-00001-of-00002.gguf")
    assert hub.fetched() == {f"q8/tiny-0000{n}-of-00002.gguf" for n in (1, 2)}


def test_shards_are_those_of_the_index(ask, hub, files):
    single = hub.files.pop("model.safetensors")
    hub.files["a.safetensors"], hub.files["b.safetensors"] = single, b"not asked for"
    header = json.loads(single[8 : 8 + int.from_bytes(single[:8], "little")])
    names = {name: "a.safetensors" for name in header if name != "__metadata__"}
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": names}).encode()
    done = ask("complete", "def f(", "--model", NAME, "-n", 2)
    assert done.returncode == 0, done.stderr
    assert hub.fetched() == NEEDED - {"model.safetensors"} | {
        "a.safetensors",
        "model.safetensors.index.json",
    }


def test_a_revision_is_taken_as_named(ask, hub):
    found = json.loads(ask("show", f"{NAME}@v2", "--json").stdout)
    assert Path(found["path"]).name == OTHER


@pytest.mark.parametrize("command", ["convert", "quantize"])
def test_commands_that_write_take_one_too(ask, tmp_path, command):
    done = ask(command, NAME, tmp_path / "out.gguf", "--format", "q8_0")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.gguf").stat().st_size > 10_000


def test_a_download_that_breaks_goes_on_where_it_was(ask, hub, tmp_path):
    large = bytes(10) + os.urandom(24 << 20)
    hub.files["large.gguf"], hub.drop["large.gguf"] = large, 22 << 20
    said = ask(
        "show", f"{NAME}:large.gguf"
    ).stderr.splitlines()  # the library tells of the break too
    assert "large.gguf: is no GGUF file" in said[-1]
    (_, first), (_, second) = [(f, asked) for method, f, asked in hub.asked if method == "GET"]
    assert first is None and int(second.removeprefix("bytes=").rstrip("-")) > 1 << 20
    assert [path.read_bytes() for path in blobs(tmp_path)] == [large]


def test_a_wrong_checksum_is_refused_and_not_kept(ask, refusal, hub, tmp_path):
    hub.sums["model.safetensors"] = "ab" * 32
    said = refusal(4, "show", NAME)
    assert "model.safetensors has not the SHA-256 that the hub tells" in said
    assert "ab" * 32 not in [path.name for path in blobs(tmp_path)]
    del hub.sums["model.safetensors"]
    assert ask("show", NAME).returncode == 0


def test_a_checksum_is_compared_once(ask, tmp_path):
    assert ask("show", NAME).returncode == 0
    weights = max(blobs(tmp_path), key=lambda path: path.stat().st_size)
    assert [path.name for path in (tmp_path / "cache" / "hub").iterdir()] == [weights.name]


@pytest.mark.parametrize("how", [{"LCM_OFFLINE": "on"}, {"HF_HUB_OFFLINE": "1"}], ids=str)
def test_offline_the_cache_is_enough_and_nothing_is_asked(ask, refusal, hub, how):
    said = refusal(4, "show", NAME, **how)
    assert "config.json is not in the cache, and lcm is offline" in said
    assert ask("show", NAME).returncode == 0
    hub.asked.clear()
    assert ask("complete", "def f(", "--model", NAME, "-n", 2, **how).returncode == 0
    assert not hub.asked


def test_offline_is_an_option_of_every_command(ask, refusal, hub):
    assert "lcm is offline" in refusal(4, "--offline", "complete", "x", "-m", f"{NAME}:a.gguf")
    assert not hub.asked


def test_offline_what_is_missing_is_named(ask, refusal, hub, tmp_path):
    ask("show", NAME)
    for path in (tmp_path / "hf").rglob("model.safetensors"):
        path.unlink()
    assert "its weights are not in the cache, and lcm is offline" in refusal(
        4, "--offline", "show", NAME
    )


def test_without_a_network_the_cache_is_used(ask, hub):
    assert ask("show", NAME).returncode == 0
    hub.shutdown()
    hub.server_close()
    assert ask("show", NAME).returncode == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hub:maker/none", "has no such model; check the name"),
        (f"{NAME}@v9", "there is no such revision"),
        (f"{NAME}:none.gguf", "has no file none.gguf"),
        ("hub:tiny", "is no model's name on a hub, which is hub:owner/name"),
        ("hub:maker/tiny:../x.gguf", "cannot be fetched|is no model's name"),
        (f"{NAME}:model.bin", "is no model's name on a hub"),
    ],
)
def test_what_is_not_there_is_one_line(refusal, hub, name, said):
    code = 2 if "is no model's name on a hub" in said else 4
    assert re.search(said, refusal(code, "show", name))


def test_a_gated_model_says_where_to_agree(refusal, hub):
    hub.gated = True
    said = refusal(4, "show", NAME)
    assert f"is gated; agree to its terms on {hub.address}/maker/tiny, and set HF_TOKEN" in said


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(refusal, hub, tmp_path):
    hub.files["large.gguf"] = bytes(4 << 20)
    limit = (1 << 20, resource.RLIM_INFINITY)
    full = partial(
        resource.setrlimit, resource.RLIMIT_FSIZE, limit
    )  # the system says no as a full disk does
    said = refusal(4, "show", f"{NAME}:large.gguf", preexec_fn=full)
    assert f"no space is left for large.gguf in {tmp_path / 'hf'}" in said
    assert not blobs(tmp_path)


def test_a_repository_of_gguf_files_names_them(refusal, hub):
    del hub.files["config.json"]
    hub.files["b.gguf"] = b""
    assert "name one of its GGUF files behind a colon: b.gguf, tiny-q8_0.gguf" in sorted_names(
        refusal(4, "show", NAME)
    )


def sorted_names(line):
    before, colon, names = line.strip().rpartition(": ")
    return before + colon + ", ".join(sorted(names.split(", ")))


def test_pickles_are_not_fetched(refusal, hub):
    del hub.files["model.safetensors"], hub.files["tiny-q8_0.gguf"]
    assert "lcm opens no pickles" in refusal(4, "show", NAME)
    assert "pytorch_model.bin" not in hub.fetched()


def test_a_model_that_cannot_run_here_is_refused_before_its_weights_come(refusal, hub):
    hub.files["config.json"] = b'{"model_type": "mamba"}'
    assert "no architecture 'mamba'" in refusal(2, "show", NAME)
    assert hub.fetched() == {"config.json"}


def test_without_the_library_one_line_says_what_to_install(hub, tmp_path):
    code = "import sys; sys.modules['huggingface_hub'] = None; from lcm.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "show", NAME], capture_output=True, text=True,
                          cwd=tmp_path, env=os.environ | {"LCM_TUNE": "off"})  # fmt: skip
    assert (done.returncode, done.stderr) == (
        2, f"lcm: {NAME}: needs huggingface_hub; pip install 'lcm[hub]'\n")  # fmt: skip
