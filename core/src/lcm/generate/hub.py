"""Models from a hub, as `hub:owner/name[@revision][:file.gguf]`: the files that are needed, in its own cache.

Files are fetched and kept by `huggingface_hub`, so that other programs share them; HF_ENDPOINT, HF_HOME and
HF_TOKEN mean what they mean there. What it does not do is done here: the SHA-256 that the hub tells of a
large file is compared once with what came, and a model that lcm cannot run is refused before its weights
are fetched.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from lcm import models, settings
from lcm.errors import FileError, UsageError
from lcm.files.atomic import NO_SPACE
from lcm.files.gguf import PART
from lcm.files.weights import INDEX, SINGLE, shards_in

PREFIX = "hub:"
NAME = re.compile(r"hub:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?(?::([\w./-]+\.gguf))?")
FORM = "hub:owner/name, with @revision or :file.gguf behind it if wanted"
TOKENIZER = "tokenizer.json"
# What a folder may have besides: read where it is there.
BESIDES = (
    "tokenizer_config.json", "generation_config.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
ONCE_ONLINE = (
    ", and lcm is offline; ask for it once without --offline, LCM_OFFLINE and HF_HUB_OFFLINE"
)
NOTHING = "; it is no model that lcm can read"
PICKLES = "; lcm opens no pickles: take a copy with safetensors"
SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Repository:
    """A model's repository at a revision, of which files are asked for by name."""

    name: str  # as the user wrote it
    id: str
    revision: str | None
    offline: bool

    def at(self, commit: str) -> "Repository":
        """The same at one commit, so that its files belong together whatever is pushed meanwhile."""
        return replace(self, revision=commit)

    def fetch(self, file: str) -> Path:
        """The file's place in the cache; `FileError` says why it cannot be had."""
        from huggingface_hub import hf_hub_download

        with _one_line_errors(self, file):
            found = hf_hub_download(
                self.id, file, revision=self.revision, local_files_only=self.offline
            )
        _verify(f"{self.name}: {file}", Path(found))
        return Path(found)

    def fetch_if_there(self, file: str) -> Path | None:
        """The same; None where the repository has no such file, or offline the cache does not."""
        from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

        if try_to_load_from_cache(self.id, file, revision=self.revision) is _CACHED_NO_EXIST:
            return None
        try:
            return self.fetch(file)
        except _NoSuchFileError:
            return None

    def gguf_files(self) -> str:
        """For an error's line: what there is to choose from."""
        from huggingface_hub import HfApi

        if self.offline:
            return ""
        with _one_line_errors(self, "its list of files"):
            names = HfApi().list_repo_files(self.id, revision=self.revision)
        found = [name for name in names if name.endswith(".gguf")]
        return f"; name one of its GGUF files behind a colon: {', '.join(found)}" if found else ""


class _NoSuchFileError(FileError):
    """A file that a repository does not have, or, offline, its copy in the cache."""


def fetched(name: str) -> Path:
    """The folder or GGUF file of a model on a hub, with all that is needed; what is not here is fetched.

    The setting `offline`, and HF_HUB_OFFLINE, let only what the cache has be used.
    """
    found = NAME.fullmatch(name)
    if found is None:
        raise UsageError(f"{name}: is no model's name on a hub, which is {FORM}")
    repository = Repository(name, found[1], found[2], _offline(name))
    return _gguf_file(repository, found[3]) if found[3] else _folder(repository)


def _offline(name: str) -> bool:
    try:
        from huggingface_hub import constants
    except ImportError:
        raise UsageError(f"{name}: needs huggingface_hub; pip install 'lcm[hub]'") from None
    if (offline := settings.get("offline")) not in ("on", "off"):
        raise UsageError(f"the setting 'offline' must be on or off, not {offline!r}")
    return offline == "on" or bool(constants.HF_HUB_OFFLINE)


def _gguf_file(repository: Repository, file: str) -> Path:
    found = repository.fetch(file)
    if part := PART.fullmatch(file):
        same = repository.at(found.parents[file.count("/")].name)
        for number in range(1, int(part[3]) + 1):
            same.fetch(f"{part[1]}-{number:05}-of-{part[3]}.gguf")
    return found


def _folder(repository: Repository) -> Path:
    config = repository.fetch_if_there("config.json")
    if config is None:
        if repository.offline:
            raise FileError(f"{repository.name}: config.json is not in the cache{ONCE_ONLINE}")
        raise FileError(
            f"{repository.name}: has no config.json{repository.gguf_files() or NOTHING}"
        )
    folder = config.parent
    repository = repository.at(folder.name)
    models.check_known(models.read_config(folder))
    repository.fetch(TOKENIZER)
    for name in BESIDES:
        repository.fetch_if_there(name)
    if repository.fetch_if_there(SINGLE) is None:
        _shards(repository)
    return folder


def _shards(repository: Repository) -> None:
    index = repository.fetch_if_there(INDEX)
    if index is None and repository.offline:
        raise FileError(f"{repository.name}: its weights are not in the cache{ONCE_ONLINE}")
    if index is None:
        raise FileError(
            f"{repository.name}: has neither {SINGLE} nor {INDEX}{repository.gguf_files() or PICKLES}"
        )
    for shard in shards_in(index):
        repository.fetch(shard)


@contextmanager
def _one_line_errors(repository: Repository, file: str) -> Iterator[None]:
    """What the library raises, as a `FileError` that says what to do."""
    from huggingface_hub import constants, errors

    name, hub = repository.name, constants.ENDPOINT
    page = f"{hub}/{repository.id}"
    try:
        yield
    except errors.GatedRepoError:
        raise FileError(
            f"{name}: is gated; agree to its terms on {page}, and set HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise FileError(
            f"{name}: {hub} has no such model; check the name, or set HF_TOKEN if it is private"
        ) from None
    except errors.RevisionNotFoundError:
        raise FileError(f"{name}: there is no such revision; see {page}") from None
    except errors.LocalEntryNotFoundError as error:
        if repository.offline:
            raise _NoSuchFileError(f"{name}: {file} is not in the cache{ONCE_ONLINE}") from None
        reason = error.__cause__ or error
        remedy = (
            "try again later"
            if isinstance(reason, errors.HfHubHTTPError)
            else "is there a network?"
        )
        raise FileError(
            f"{name}: {file} cannot be fetched from {hub}: {_line(reason)}; {remedy}"
        ) from None
    except errors.EntryNotFoundError:
        raise _NoSuchFileError(f"{name}: has no file {file}; see {page}/tree/main") from None
    except Exception as error:  # also those of its libraries for HTTP, which differ by version
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise FileError(f"{name}: no space is left for {file} in {constants.HF_HUB_CACHE}; "
                            f"free some, or set HF_HOME to another disk") from None  # fmt: skip
        raise FileError(
            f"{name}: {file} cannot be fetched from {hub}: {_line(error)}; try again later"
        ) from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _verify(what: str, path: Path) -> None:
    """Compare a file's SHA-256, once, with the one that the hub told, by which the cache calls the file."""
    blob = path.resolve()
    seen = settings.cache_dir() / "hub" / blob.name
    if not SHA256.fullmatch(blob.name) or seen.exists():
        return
    with blob.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != blob.name:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise FileError(
            f"{what} has not the SHA-256 that the hub tells, and was deleted; get it again"
        )
    with suppress(OSError):  # then it is compared again
        seen.parent.mkdir(parents=True, exist_ok=True)
        seen.touch()
