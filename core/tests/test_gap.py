"""Fill-in-the-middle: places in files, the prompts of each family, and what fits a context."""

import pytest
from click.testing import CliRunner

from lcm import models
from lcm.cli.complete import command
from lcm.errors import FileError, LcmWarning, UsageError
from lcm.generate.text_model import TextModel
from lcm.text.gap import FORMS, Gap, form_of, gap_ids
from lcm.text.tokenizer import Tokenizer

CODE = ["def add(a, b):\n    return a + b\n", "x = 'größer'\n"] * 4
GAP = Gap("def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n")


def trained(*special):
    return Tokenizer.train(CODE, vocabulary=300, special=("<|endoftext|>", *special))


@pytest.mark.parametrize("form", FORMS, ids=[form.before for form in FORMS])
def test_each_family_is_known_by_its_tokens_and_asked_in_its_order(form):
    names = [name for name in (form.before, form.after, form.gap) if name]
    tokenizer = trained(*names)
    assert form_of(tokenizer) == form
    shown = tokenizer.decode(gap_ids(tokenizer, GAP, 1000), special=True)
    before, after = form.before + GAP.before, form.after + GAP.after
    assert shown == (after + before if form.after_first else before + after) + form.gap


def test_what_looks_like_a_control_token_in_the_text_stays_text():
    tokenizer = trained("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
    ids = gap_ids(tokenizer, Gap("x = '<fim_suffix>'", ""), 1000)
    assert ids.count(tokenizer.id_of("<fim_suffix>")) == 1


def test_a_model_that_never_learned_it_says_so():
    with pytest.raises(UsageError, match="no tokens for filling gaps"):
        form_of(trained())


@pytest.mark.parametrize(
    ("before", "after", "room", "ahead", "behind"),
    [(100, 100, 80, 60, 20), (100, 5, 80, 75, 5), (10, 100, 80, 10, 70), (100, 0, 80, 80, 0)],
)
def test_what_is_near_the_gap_is_kept_and_what_is_left_out_is_said(
    before, after, room, ahead, behind
):
    tokenizer = trained("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
    gap = Gap(
        "".join(chr(0x4E00 + i) for i in range(before)),
        "".join(chr(0x5E00 + i) for i in range(after)),
    )
    one = len(tokenizer.encode("一"))
    with pytest.warns(
        LcmWarning, match=f"the last {one * ahead} before it and the first {one * behind} "
    ):
        ids = gap_ids(tokenizer, gap, one * room + 3)
    assert len(ids) == one * room + 3
    shown = tokenizer.decode(ids)
    assert shown == gap.before[before - ahead :] + gap.after[:behind]


def test_a_place_is_before_its_column(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("ab\nçd\n", encoding="utf-8")
    assert Gap.at(path, 1, 1) == Gap("", "ab\nçd\n")
    assert Gap.at(path, 2, 2) == Gap("ab\nç", "d\n")
    assert Gap.at(path, 2, 3) == Gap("ab\nçd", "\n")
    assert Gap.at(path, 3, 1) == Gap("ab\nçd\n", "")


@pytest.mark.parametrize(
    ("line", "column", "message"),
    [
        (0, 1, "has 2 lines"),
        (4, 1, "has 2 lines"),
        (1, 4, "has 2 characters"),
        (1, 0, "has 2 characters"),
    ],
)
def test_a_place_that_is_not_there_is_refused(tmp_path, line, column, message):
    path = tmp_path / "a.py"
    path.write_text("ab\ncd\n", encoding="utf-8")
    with pytest.raises(UsageError, match=f"a.py:{line}:{column}: .*{message}"):
        Gap.at(path, line, column)


def test_a_form_feed_ends_no_line(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("a\x0cb\u2028c\nd\n", encoding="utf-8")
    assert Gap.at(path, 2, 1) == Gap("a\x0cb\u2028c\n", "d\n")


def test_a_file_that_is_not_there_is_not_taken_for_a_prompt(tmp_path):
    done = CliRunner().invoke(command, [f"{tmp_path}/hlaf.py:1:1"])
    assert isinstance(done.exception, FileError) and "hlaf.py" in str(done.exception)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(FileError, match="cannot be read as text"):
        Gap.at(path, 1, 1)


def test_a_gap_is_filled_until_any_control_token():
    tokenizer = trained("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
    values = {"model_type": "gpt2", "n_positions": 128, "n_embd": 12, "n_layer": 1, "n_head": 2}
    model = models.fresh(values | {"vocab_size": tokenizer.vocabulary}, 3)
    text_model = TextModel(model, tokenizer)
    found = text_model.complete(GAP, max_tokens=8)
    assert found.prompt_tokens == len(gap_ids(tokenizer, GAP, 1000))
    for parameter in model.parameters().values():
        parameter.data[...] = 0
    model.lm_head.weight.data[tokenizer.id_of("<fim_prefix>")] = 1
    model.transformer.ln_f.bias.data[...] = 1
    assert text_model.complete(GAP, max_tokens=8).finish == "end"
