"""The forms in which families of models have learned to fill gaps, as their authors published them.

A form is written as in the papers, but for a blank between its words, which is no part of it: a word with a
{field} in it is text, and any other is a control token. The tokens tell the family.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lcm.errors import UsageError
from lcm.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Form:
    """What a family is asked, in each order that it has learned; the first is the usual one.

    {before} and {after} are the pieces around the gap; what the model writes then is what fills it.
    """

    orders: Mapping[str, str]

    @property
    def tokens(self) -> tuple[str, ...]:
        """Its control tokens, each once."""
        every = (word for part in self.orders.values() for word in words(part))
        return tuple(dict.fromkeys(word for word in every if not is_text(word)))

    def order(self, name: str = "") -> str:
        """The words of an order, without a name of the usual one; `UsageError` where it was not learned."""
        if name and name not in self.orders:
            raise UsageError(f"this model is not known to fill gaps in the order {name!r}; "
                             f"it has learned {' and '.join(self.orders)}")  # fmt: skip
        return self.orders[name or next(iter(self.orders))]


def words(part: str) -> list[str]:
    """A part of a form as its words, in order."""
    return [word for word in part.split(" ") if word]


def is_text(word: str) -> bool:
    """Whether it is no control token."""
    return "{" in word


# psm is prefix, suffix, middle; spm suffix, prefix, middle (Bavarian et al., 2022). The first form of which a
# tokenizer has all tokens is the model's.
FORMS = (
    # Qwen2.5-Coder (Hui et al., 2024, section 3.2.1) and CodeGemma (CodeGemma Team, 2024, figure 4), which
    # has learned spm too, in a form that is not published.
    Form({"psm": "<|fim_prefix|> {before} <|fim_suffix|> {after} <|fim_middle|>"}),
    # StarCoder (Li et al., 2023), StarCoder2 (Lozhkov et al., 2024, section 5.1), and Granite Code with their
    # tokens; spm as by `permute` of megatron/data/gpt_dataset.py in github.com/bigcode-project/Megatron-LM.
    Form({
        "psm": "<fim_prefix> {before} <fim_suffix> {after} <fim_middle>",
        "spm": "<fim_prefix> <fim_suffix> {after} <fim_middle> {before}",
    }),
    # SantaCoder: Ben Allal et al., 2023, "SPM+PSM joint training", by the same code.
    Form({
        "psm": "<fim-prefix> {before} <fim-suffix> {after} <fim-middle>",
        "spm": "<fim-prefix> <fim-suffix> {after} <fim-middle> {before}",
    }),
    # DeepSeek-Coder: Guo et al., 2024, section 3.1.2.
    Form({"psm": "<｜fim▁begin｜> {before} <｜fim▁hole｜> {after} <｜fim▁end｜>"}),
    # Code Llama: Rozière et al., 2023, section 2.3, half of it in each order; written as by
    # `infilling_prompt_tokens` of llama/generation.py in github.com/meta-llama/codellama.
    Form({
        "psm": "▁<PRE> {before} ▁<SUF> {after} ▁<MID>",
        "spm": "▁<PRE> ▁<SUF> {after} ▁<MID> {before}",
    }),
    # Codestral: `encode_fim` of github.com/mistralai/mistral-common.
    Form({"spm": "[SUFFIX] {after} [PREFIX] {before}"}),
)  # fmt: skip


def form_of(tokenizer: Tokenizer) -> Form:
    """The form that the tokenizer has the tokens of; `UsageError` if it has those of none."""
    for form in FORMS:
        if all(name in tokenizer for name in form.tokens):
            return form
    raise UsageError(
        "this model has no tokens for filling gaps; give it the text before the gap as a prompt"
    )
