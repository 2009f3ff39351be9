"""The forms in which families of models have learned to fill gaps, as their authors published them.

A form is written as in the papers, but for a blank between its words, which is no part of it: a word with a
{field} in it is text, and any other is a control token. The tokens tell the family.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lcm.errors import UsageError
from lcm.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Files:
    """How a family is shown a repository: its {name}, each other file, and then the one with the gap.

    {path} is that of a file in the repository, {text} all that is in it.
    """

    repository: str
    other: str
    orders: Mapping[str, str]


@dataclass(frozen=True)
class Form:
    """What a family is asked, in each order that it has learned; the first is the usual one.

    {before} and {after} are the pieces around the gap; what the model writes then is what fills it.
    """

    orders: Mapping[str, str]
    files: Files | None = None

    @property
    def tokens(self) -> tuple[str, ...]:
        """Its control tokens, each once."""
        parts = [*self.orders.values()]
        if self.files:
            parts += [self.files.repository, self.files.other, *self.files.orders.values()]
        every = (word for part in parts for word in words(part))
        return tuple(dict.fromkeys(word for word in every if not is_text(word)))

    def order(self, name: str = "") -> str:
        """An order that was learned, the usual one if it has no name; `UsageError` for any other."""
        if name and name not in self.orders:
            raise UsageError(f"this model is not known to fill gaps in the order {name!r}; "
                             f"it has learned {' and '.join(self.orders)}")  # fmt: skip
        return name or next(iter(self.orders))

    def among_files(self) -> Files:
        """How it is shown other files; `UsageError` if it has not learned that."""
        if self.files is None:
            raise UsageError("this model is not known to have learned to read other files beside "
                             "the gap's; ask without them")  # fmt: skip
        return self.files


def words(part: str) -> list[str]:
    """A part of a form as its words, in order."""
    return [word for word in part.split(" ") if word]


def is_text(word: str) -> bool:
    """Whether it is no control token."""
    return "{" in word


# psm is prefix, suffix, middle; spm suffix, prefix, middle (Bavarian et al., 2022).
QWEN = "<|fim_prefix|> {before} <|fim_suffix|> {after} <|fim_middle|>"
STAR_CODER = {
    "psm": "<fim_prefix> {before} <fim_suffix> {after} <fim_middle>",
    "spm": "<fim_prefix> <fim_suffix> {after} <fim_middle> {before}",
}

# The first form of which a tokenizer has all tokens is the model's.
FORMS = (
    # Qwen2.5-Coder: Hui et al., 2024, figures 3 and 4.
    Form(
        {"psm": QWEN},
        Files(
            repository="<|repo_name|> {name}\n",
            other="<|file_sep|> {path}\n{text}\n",
            orders={"psm": "<|file_sep|> {path}\n " + QWEN},
        ),
    ),
    # CodeGemma: CodeGemma Team, 2024, figures 2 and 4. It has learned spm too, but in which form is not
    # published.
    Form(
        {"psm": QWEN},
        Files(
            repository="",
            other="{path}\n{text} <|file_separator|>",
            orders={"psm": "{path}\n " + QWEN},
        ),
    ),
    # Others with these tokens.
    Form({"psm": QWEN}),
    # StarCoder2: Lozhkov et al., 2024, section 5.1. The path belongs to what is before the gap.
    Form(
        STAR_CODER,
        Files(
            repository="<repo_name> {name}",
            other="<file_sep> {path}\n{text}",
            orders={
                "psm": "<file_sep> <fim_prefix> {path}\n {before} <fim_suffix> {after} <fim_middle>",
                "spm": "<file_sep> <fim_prefix> <fim_suffix> {after} <fim_middle> {path}\n {before}",
            },
        ),
    ),
    # StarCoder (Li et al., 2023), and Granite Code with its tokens. spm as by `permute` of
    # megatron/data/gpt_dataset.py in github.com/bigcode-project/Megatron-LM. It has learned names of files,
    # but those that it saw together were random ones (Lozhkov et al., 2024, section 5.1).
    Form(STAR_CODER),
    # SantaCoder: Ben Allal et al., 2023, "SPM+PSM joint training", by the same code.
    Form(
        {
            "psm": "<fim-prefix> {before} <fim-suffix> {after} <fim-middle>",
            "spm": "<fim-prefix> <fim-suffix> {after} <fim-middle> {before}",
        }
    ),
    # DeepSeek-Coder: Guo et al., 2024; half of its texts by psm.
    Form({"psm": "<｜fim▁begin｜> {before} <｜fim▁hole｜> {after} <｜fim▁end｜>"}),
    # Code Llama: Rozière et al., 2023, section 2.3, half of it in each order; written as by
    # `infilling_prompt_tokens` of llama/generation.py in github.com/meta-llama/codellama.
    Form(
        {
            "psm": "▁<PRE> {before} ▁<SUF> {after} ▁<MID>",
            "spm": "▁<PRE> ▁<SUF> {after} ▁<MID> {before}",
        }
    ),
    # Codestral: `encode_fim` of github.com/mistralai/mistral-common.
    Form({"spm": "[SUFFIX] {after} [PREFIX] {before}"}),
)


def form_of(tokenizer: Tokenizer) -> Form:
    """The form that the tokenizer has the tokens of; `UsageError` if it has those of none."""
    for form in FORMS:
        if all(name in tokenizer for name in form.tokens):
            return form
    raise UsageError(
        "this model has no tokens for filling gaps; give it the text before the gap as a prompt"
    )
