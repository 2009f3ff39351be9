"""Fill-in-the-middle: places in files, the prompts of each family, and what fits a context."""

import re
from dataclasses import replace

import pytest
from click.testing import CliRunner

from lcm import models
from lcm.cli.complete import command
from lcm.errors import FileError, LcmWarning, UsageError
from lcm.generate.prefixes import Prefixes
from lcm.generate.text_model import TextModel
from lcm.text.forms import FORMS, form_of
from lcm.text.gap import Gap, gap_ids
from lcm.text.tokenizer import Tokenizer

CODE = ["def add(a, b):\n    return a + b\n", "x = 'größer'\n"] * 4
STAR_CODER = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]
GAP = Gap("def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n")


def trained(*special):
    return Tokenizer.train(CODE, vocabulary=300, special=("<|endoftext|>", *special))


# What each family is asked, as its authors print it.
PUBLISHED = [
    ("psm", "<|fim_prefix|>{before}<|fim_suffix|>{after}<|fim_middle|>"),
    ("psm", "<fim_prefix>{before}<fim_suffix>{after}<fim_middle>"),
    ("spm", "<fim_prefix><fim_suffix>{after}<fim_middle>{before}"),
    ("psm", "<fim-prefix>{before}<fim-suffix>{after}<fim-middle>"),
    ("spm", "<fim-prefix><fim-suffix>{after}<fim-middle>{before}"),
    ("psm", "<｜fim▁begin｜>{before}<｜fim▁hole｜>{after}<｜fim▁end｜>"),
    ("psm", "▁<PRE>{before}▁<SUF>{after}▁<MID>"),
    ("spm", "▁<PRE>▁<SUF>{after}▁<MID>{before}"),
    ("spm", "[SUFFIX]{after}[PREFIX]{before}"),
]


def control(published):
    return re.findall(r"▁?<[^>]+>|\[\w+\]", published)


@pytest.mark.parametrize(("order", "published"), PUBLISHED)
def test_each_family_is_asked_in_the_orders_that_it_has_learned(order, published):
    tokenizer = trained(*control(published))
    ids = gap_ids(tokenizer, replace(GAP, order=order), 1000)
    expected = published.format(before=GAP.before, after=GAP.after)
    assert tokenizer.decode(ids, special=True) == expected
    assert [tokenizer.id_of(name) for name in control(published)] == [
        id for id in ids if id in tokenizer.special.values()
    ]


def test_these_are_all_orders_of_all_families():
    of_ours = {
        (order, text.replace(" ", "")) for form in FORMS for order, text in form.orders.items()
    }
    assert of_ours == set(PUBLISHED)


@pytest.mark.parametrize(("order", "published"), PUBLISHED)
def test_without_an_order_it_is_psm_where_that_was_learned(order, published):
    tokenizer = trained(*control(published))
    usual = "spm" if "[SUFFIX]" in published else "psm"
    assert gap_ids(tokenizer, GAP, 1000) == gap_ids(tokenizer, replace(GAP, order=usual), 1000)


@pytest.mark.parametrize(
    ("names", "order", "message"),
    [
        (
            ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
            "spm",
            "'spm'; it has learned psm$",
        ),
        (["[SUFFIX]", "[PREFIX]"], "psm", "'psm'; it has learned spm$"),
        (
            STAR_CODER,
            "mps",
            "'mps'; it has learned psm and spm$",
        ),
    ],
)
def test_an_order_that_was_not_learned_is_refused(names, order, message):
    with pytest.raises(UsageError, match=message):
        gap_ids(trained(*names), replace(GAP, order=order), 1000)


def test_what_looks_like_a_control_token_in_the_text_stays_text():
    tokenizer = trained(*STAR_CODER)
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
    tokenizer = trained(*STAR_CODER)
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


def filling(*special):
    """A tiny model of these control tokens, which keeps what it has read."""
    tokenizer = trained(*special)
    values = {"model_type": "gpt2", "n_positions": 512, "n_embd": 12, "n_layer": 1, "n_head": 2}
    model = models.fresh(values | {"vocab_size": tokenizer.vocabulary}, 3)
    text_model = TextModel(model, tokenizer)
    text_model.prefixes = Prefixes(model, memory=10**9)
    return text_model


def test_after_typing_before_the_gap_psm_reads_what_is_behind_it_and_spm_what_was_typed():
    read = {}
    for order in ("psm", "spm"):
        text_model = filling(*STAR_CODER)
        gap = Gap("def add(a, b):\n", "\n" + CODE[0] * 20, order)
        typed = replace(gap, before=gap.before + "    c")
        assert text_model.complete(gap, max_tokens=3).reused_tokens == 0
        found = text_model.complete(typed, max_tokens=3)
        assert found.tokens == filling(*STAR_CODER).complete(typed, max_tokens=3).tokens
        read[order] = found.prompt_tokens - found.reused_tokens
    assert read["psm"] > len(text_model.tokenizer.encode(gap.after)) > 200
    assert read["spm"] <= len("    c") + 1  # the last token before it may have become another


def test_an_order_is_for_a_gap(tmp_path):
    done = CliRunner().invoke(command, ["def f(", "--order", "spm"])
    assert done.exit_code == 2 and "--order and --with are for a gap" in done.output


def test_a_gap_is_filled_until_any_control_token():
    text_model = filling(*STAR_CODER)
    model, tokenizer = text_model.model, text_model.tokenizer
    found = text_model.complete(GAP, max_tokens=8)
    assert found.prompt_tokens == len(gap_ids(tokenizer, GAP, 1000))
    for parameter in model.parameters().values():
        parameter.data[...] = 0
    model.lm_head.weight.data[tokenizer.id_of("<fim_prefix>")] = 1
    model.transformer.ln_f.bias.data[...] = 1
    assert text_model.complete(GAP, max_tokens=8).finish == "end"
