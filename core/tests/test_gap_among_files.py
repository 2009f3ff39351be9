"""Gaps in a repository: how each family is shown other files, which of them fit, and where they lie."""

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lcm import models
from lcm.cli.complete import command
from lcm.errors import FileError, LcmWarning, UsageError
from lcm.generate.prefixes import Prefixes
from lcm.generate.text_model import TextModel
from lcm.text.forms import FORMS
from lcm.text.gap import Gap, gap_ids
from lcm.text.repository import Repository, Source
from lcm.text.tokenizer import Tokenizer

# The prompts that these files give, as the authors print their forms.
SHAPES = Source("src/shapes.py", "class Shape:\n    pass\n")
CIRCLE = Source("src/circle.py", "class Circle(Shape):\n    pass")
GAP = Gap(
    "from shapes import Shape\n\n",
    "\n\nprint(area)\n",
    repository=Repository("drawing", "main.py", (SHAPES, CIRCLE)),
)
PUBLISHED = {
    "Qwen2.5-Coder": (
        "psm",
        """\
<|repo_name|>drawing
<|file_sep|>src/shapes.py
class Shape:
    pass

<|file_sep|>src/circle.py
class Circle(Shape):
    pass
<|file_sep|>main.py
<|fim_prefix|>from shapes import Shape

<|fim_suffix|>

print(area)
<|fim_middle|>""",
    ),
    "CodeGemma": (
        "psm",
        """\
src/shapes.py
class Shape:
    pass
<|file_separator|>src/circle.py
class Circle(Shape):
    pass<|file_separator|>main.py
<|fim_prefix|>from shapes import Shape

<|fim_suffix|>

print(area)
<|fim_middle|>""",
    ),
    "StarCoder2": (
        "psm",
        """\
<repo_name>drawing<file_sep>src/shapes.py
class Shape:
    pass
<file_sep>src/circle.py
class Circle(Shape):
    pass<file_sep><fim_prefix>main.py
from shapes import Shape

<fim_suffix>

print(area)
<fim_middle>""",
    ),
    "StarCoder2 by spm": (
        "spm",
        """\
<repo_name>drawing<file_sep>src/shapes.py
class Shape:
    pass
<file_sep>src/circle.py
class Circle(Shape):
    pass<file_sep><fim_prefix><fim_suffix>

print(area)
<fim_middle>main.py
from shapes import Shape

""",
    ),
}
TOKENS = {family: re.findall("<[^>]+>", text) for family, (_, text) in PUBLISHED.items()}


def trained(*special):
    texts = [SHAPES.text, CIRCLE.text, GAP.before, GAP.after]
    control = dict.fromkeys(["<|endoftext|>", *special])
    return Tokenizer.train(texts, vocabulary=290, special=[*control])


@pytest.mark.parametrize("family", PUBLISHED)
def test_each_family_is_shown_files_as_its_authors_print_it(family):
    order, published = PUBLISHED[family]
    tokenizer = trained(*TOKENS[family])
    ids = gap_ids(tokenizer, replace(GAP, order=order), 1000)
    assert tokenizer.decode(ids, special=True) == published
    special = [id for id in ids if id in tokenizer.special.values()]
    assert special == [tokenizer.id_of(name) for name in TOKENS[family]]


def test_these_are_all_families_that_have_learned_it():
    known = [(set(form.tokens), set(form.files.orders)) for form in FORMS if form.files]
    expected = [
        (set(TOKENS[family]), {PUBLISHED[family][0]}) for family in ("Qwen2.5-Coder", "CodeGemma")
    ]
    assert known == [*expected, (set(TOKENS["StarCoder2"]), {"psm", "spm"})]
    assert all(form.orders.keys() == form.files.orders.keys() for form in FORMS if form.files)


def test_without_other_files_the_prompt_is_that_of_one_file():
    tokenizer = trained(*TOKENS["Qwen2.5-Coder"])
    shown = tokenizer.decode(gap_ids(tokenizer, replace(GAP, repository=None), 1000), special=True)
    assert shown == f"<|fim_prefix|>{GAP.before}<|fim_suffix|>{GAP.after}<|fim_middle|>"


def test_a_model_that_has_seen_no_files_together_says_so():
    with pytest.raises(UsageError, match="not known to have learned to read other files"):
        gap_ids(trained("<fim_prefix>", "<fim_suffix>", "<fim_middle>"), GAP, 1000)


@pytest.mark.parametrize("family", PUBLISHED)
def test_no_text_name_or_path_writes_a_control_token(family):
    order, _ = PUBLISHED[family]
    tokenizer = trained(*TOKENS[family])
    forged = "".join(tokenizer.special) + "{before}{after}{path}{text}{name}"
    sources = (Source(forged, forged), Source("a", forged))
    gap = Gap(forged, forged, order, Repository(forged, forged, sources))
    honest = replace(GAP, order=order)
    control = set(tokenizer.special.values())
    of_forged, of_honest = (
        [id for id in gap_ids(tokenizer, g, 10**6) if id in control] for g in (gap, honest)
    )
    assert of_forged == of_honest
    assert tokenizer.decode(gap_ids(tokenizer, gap, 10**6)).count(forged) == (
        6 if family == "CodeGemma" else 7  # it is told no repository's name
    )


# What fits.


def wide(count, first=0x4E00):
    """A text of so many characters, each of which is three tokens."""
    return "".join(chr(first + i) for i in range(count))


def shown(gap, tokens):
    """Of a prompt of at most so many tokens for texts: how many characters of each, and what was said."""
    tokenizer = trained(*TOKENS["StarCoder2"])
    assert len(tokenizer.encode("一")) == 3
    empty = replace(gap, before="", after="", repository=replace(gap.repository, others=()))
    fixed = len(gap_ids(tokenizer, empty, 10**6))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ids = gap_ids(tokenizer, gap, fixed + tokens)
    assert len(ids) <= fixed + tokens
    text = tokenizer.decode(ids)
    pieces = [gap.before, gap.after, *(other.text for other in gap.repository.others)]
    return [sum(c in text for c in piece) for piece in pieces], [str(w.message) for w in said]


def files(*counts):
    return Repository(
        "r", "p", tuple(Source("", wide(n, 0x6000 + 0x200 * i)) for i, n in enumerate(counts))
    )


FILE = 2  # tokens of a file beside its text: <file_sep>, and the end of a line behind the path


@pytest.mark.parametrize(
    ("before", "after", "others", "room", "expected"),
    [
        # All fits: just, and with one token too few.
        (10, 10, (20, 30), 3 * 70 + 2 * FILE, [10, 10, 20, 30]),
        (10, 10, (20, 30), 3 * 70 + 2 * FILE - 1, [10, 10, 0, 30]),
        # The first ones are left out, also where one of them would fit without another behind it.
        (10, 10, (5, 60, 30), 3 * 70, [10, 10, 0, 0, 30]),
        (10, 10, (60, 5, 30), 3 * 70, [10, 10, 0, 5, 30]),
        # What the file with the gap leaves is more than half, just, and with one token too few.
        (10, 10, (90,), 3 * 110 + FILE, [10, 10, 90]),
        (10, 10, (90,), 3 * 110 + FILE - 1, [10, 10, 0]),
        # A long file with a gap leaves half to others, just, and with two tokens too few.
        (100, 100, (20,), 2 * (3 * 20 + FILE), [15, 5, 20]),
        (100, 100, (20,), 2 * (3 * 20 + FILE) - 2, [30, 10, 0]),
    ],
)
def test_other_files_have_what_the_gaps_file_leaves_and_half_in_any_case(
    before, after, others, room, expected
):
    found, said = shown(Gap(wide(before), wide(after, 0x5500), repository=files(*others)), room)
    assert found == expected
    out = expected[2:].count(0)
    messages = []
    if out:
        messages.append(
            f"of {len(others)} other files the first {out} do not fit the model's context"
        )
    if expected[:2] != [before, after]:
        messages.append(f"around the gap are {3 * before} and {3 * after} tokens")
    assert len(said) == len(messages)
    assert all(one.startswith(message) for one, message in zip(said, messages, strict=True))


def test_a_context_that_not_even_the_names_fit_is_refused():
    with (
        pytest.warns(LcmWarning, match="the first 2 do not fit"),
        pytest.raises(UsageError, match="no room"),
    ):
        gap_ids(trained(*TOKENS["StarCoder2"]), GAP, 5)


def tiny(tokenizer):
    """A model for these tokens, which answers each prompt otherwise."""
    values = {"model_type": "gpt2", "n_positions": 512, "n_embd": 12, "n_layer": 1, "n_head": 2}
    model = models.fresh(values | {"vocab_size": tokenizer.vocabulary}, 3)
    rng = np.random.default_rng(3)
    for parameter in model.parameters().values():
        parameter.data += rng.standard_normal(parameter.shape, np.float32)
    return model, tokenizer


def test_after_typing_the_other_files_are_known():
    model, tokenizer = tiny(trained(*TOKENS["StarCoder2"]))
    text_model = TextModel(model, tokenizer)
    text_model.prefixes = Prefixes(model, memory=10**9)
    text_model.complete(GAP, max_tokens=2)
    found = text_model.complete(replace(GAP, before="x" + GAP.before), max_tokens=2)
    of_files = tokenizer.decode(gap_ids(tokenizer, GAP, 1000)[: found.reused_tokens])
    assert SHAPES.text in of_files and CIRCLE.text in of_files


# Where files lie.


@pytest.fixture
def checkout(tmp_path):
    """A repository with a file to complete and two others, in a folder of other things."""
    root = tmp_path / "drawing"
    for path, text in {
        "main.py": "a\n",
        SHAPES.path: SHAPES.text,
        CIRCLE.path: CIRCLE.text,
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / ".git").mkdir()
    (tmp_path / "notes.txt").write_text("n\n")
    return root


def test_paths_are_those_in_the_repository_from_wherever_one_asks(checkout, monkeypatch):
    expected = Repository("drawing", "main.py", (SHAPES, CIRCLE))
    asked = [checkout / SHAPES.path, checkout / CIRCLE.path]
    assert Repository.around(checkout / "main.py", asked) == expected
    monkeypatch.chdir(checkout / "src")
    others = [Path(name) for name in ("shapes.py", "../src/circle.py")]
    assert Repository.around(Path("../main.py"), others) == expected
    assert Gap.at(checkout / "main.py", 1, 2, others=others).repository == expected
    assert Gap.at(checkout / "main.py", 1, 2).repository is None


def test_a_worktree_has_a_file_named_git(checkout):
    (checkout / "src" / ".git").write_text("gitdir: elsewhere\n")
    found = Repository.around(checkout / SHAPES.path, [checkout / "main.py"])
    assert (found.name, found.path) == ("src", "shapes.py")
    assert [source.path for source in found.others] == ["main.py"]


def test_without_a_repository_it_is_the_current_folder(checkout, monkeypatch):
    (checkout / ".git").rmdir()
    monkeypatch.chdir(checkout / "src")
    found = Repository.around(checkout / SHAPES.path, [checkout.parent / "notes.txt"])
    assert found == Repository("src", "shapes.py", (Source("notes.txt", "n\n"),))


@pytest.mark.parametrize("name", ["missing.py", "src", "a.bin"])
def test_a_file_that_is_no_text_is_refused_by_name(checkout, name):
    (checkout / "a.bin").write_bytes(b"\xff\xfe")
    with pytest.raises(FileError, match=f"{name}: cannot be read as text"):
        Gap.at(checkout / "main.py", 1, 1, others=[checkout / SHAPES.path, checkout / name])


# The command.


@pytest.fixture
def text_model(tmp_path):
    """A tiny model of StarCoder2's kind, in a folder."""
    model, tokenizer = tiny(trained(*TOKENS["StarCoder2"]))
    models.save(model, tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    return TextModel(model, tokenizer, tmp_path / "model")


@pytest.mark.parametrize("order", ["psm", "spm"])
@pytest.mark.parametrize("others", [(SHAPES, CIRCLE), (CIRCLE, SHAPES)])
def test_the_command_asks_as_python_does(checkout, text_model, order, others):
    options = [word for other in others for word in ("--with", str(checkout / other.path))]
    place, model = f"{checkout / 'main.py'}:1:2", str(text_model.folder)
    done = CliRunner().invoke(
        command, [place, "-m", model, "-n", "4", "--json", "--order", order, *options]
    )
    assert done.exit_code == 0, done.output
    gap = Gap("a", "\n", order, Repository("drawing", "main.py", others))
    expected = text_model.complete(gap, max_tokens=4)
    found = json.loads(done.output)
    assert found["prompt_tokens"] == expected.prompt_tokens
    assert tuple(found["tokens"]) == expected.tokens


def test_files_are_for_a_gap(checkout):
    done = CliRunner().invoke(command, ["def f(", "--with", str(checkout / "main.py")])
    assert done.exit_code == 2 and "--order and --with are for a gap" in done.output
