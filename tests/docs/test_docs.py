"""The docs do what they say: every ```sh and ```python block runs, and every link leads somewhere.

The blocks of a page run in their order, in one empty folder. Training is shortened to three seconds; nothing
else is changed. A ```console block shows what a command printed, and is not run.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = [
    *sorted(ROOT.glob("*.md")), ROOT / "core" / "README.md",
    *sorted(p for f in ("docs", "plugins/*", "models/*", "examples/*") for p in ROOT.glob(f"{f}/*.md")),
    *sorted(ROOT.glob("docs/reference/*.md")),
]  # fmt: skip
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
RUNNERS = {
    "sh": ["bash", "-eu", "-o", "pipefail", "-c"],
    "python": [sys.executable, "-W", "error", "-c"],
}
with_blocks = [
    p for p in PAGES if BLOCK.search(p.read_text("utf-8")) and "reference" not in p.parts
]


def name(page):
    return str(page.relative_to(ROOT))


def shortened(text):
    return re.sub(r"--minutes [\d.]+", "--minutes 0.05", text)


@pytest.mark.parametrize("page", with_blocks, ids=name)
def test_the_commands_of_a_page_run(page, environment, tmp_path):
    for language, text in BLOCK.findall(page.read_text("utf-8")):
        done = subprocess.run(
            [*RUNNERS[language], shortened(text)], cwd=tmp_path, env=environment | {"LCM_REPO": str(ROOT)},
            text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in LINK.findall(text):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def lines_of_code(path):
    """Neither empty lines, nor comments, nor a module's docstring."""
    text = re.sub(
        r'/\*.*?\*/|^""".*?"""$', "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    return sum(1 for line in text.splitlines() if line.strip())


def test_the_lines_that_an_instruction_set_takes_are_as_the_page_says():
    page = (ROOT / "docs" / "write-a-kernel.md").read_text("utf-8")
    rows = re.findall(r"^\| (lcm-\w+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", page, re.MULTILINE)
    assert len(rows) >= 2
    for plugin, *counts in rows:
        folder = ROOT / "plugins" / plugin
        manifest = folder / "src" / plugin.replace("-", "_") / "lcm_backend.toml"
        files = (folder / "vec.h", folder / "kernels.c", manifest, folder / "setup.py")
        assert [lines_of_code(f) for f in files] == [int(n) for n in counts], plugin


def test_every_page_of_the_docs_is_linked_from_the_readme():
    linked = LINK.findall((ROOT / "README.md").read_text("utf-8"))
    pages = [p.relative_to(ROOT).as_posix() for p in ROOT.glob("docs/*.md")]
    assert not [page for page in pages if page not in linked]


def test_every_folder_of_the_map_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    places = re.findall(r"^ *([\w./-]+/) ", text, re.MULTILINE)
    assert len(places) > 5 and not [p for p in places if not list(ROOT.glob(f"**/{p}"))]
