"""How byte-level tokenizers cut a text into words, by the names that GGUF files have for it.

A file holds the name alone (`tokenizer.ggml.pre`). What it stands for is in the tokenizer.json of the
models that carry it, and written down here: the normalizer, the steps that cut, and whether a word
that is a token stays whole whatever the merges say. llama.cpp has patterns of its own and normalizes
nothing; where the two differ, this is what the models' own files say.
"""

from dataclasses import dataclass
from typing import Any

from lcm.errors import FileError
from lcm.files.refusal import brief
from lcm.text.tokenizer import WORDS

Step = dict[str, Any]

BYTES: Step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
               "use_regex": False}  # fmt: skip
GPT2_WORDS: Step = {**BYTES, "use_regex": True}  # the library cuts by GPT-2's pattern itself
SINGLE_DIGITS: Step = {"type": "Digits", "individual_digits": True}


def split(pattern: str, behavior: str = "Isolated", *, invert: bool = False) -> Step:
    """Cut at every match; `Removed` with `invert` drops what the pattern does not match."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


@dataclass(frozen=True)
class PreTokenizer:
    """What a name stands for; `begins`: a file that does not say adds a begin token to each text."""

    steps: tuple[Step, ...]
    normalizer: str | None = None
    whole_words: bool = False
    begins: bool = False

    def facts(self) -> Step:
        """The `pre_tokenizer` of a tokenizer.json."""
        if len(self.steps) == 1:
            return self.steps[0]
        return {"type": "Sequence", "pretokenizers": list(self.steps)}


CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _words(digits: str, letters: str = r"\p{L}", contractions: str = CONTRACTIONS) -> str:
    """The pattern of OpenAI's cl100k, in which models change the digits, and the letters of a word."""
    others = r"\p{L}\p{N}" if letters == r"\p{L}" else r"\p{L}\p{M}\p{N}"
    return "|".join((
        contractions,
        rf"[^\r\n\p{{L}}\p{{N}}]?{letters}+",
        digits,
        rf" ?[^\s{others}]+[\r\n]*",
        BLANKS,
    ))  # fmt: skip


def _cased_words(digits: str, ending: str = "") -> str:
    """The pattern of OpenAI's o200k: a capital letter within a word begins another one."""
    first = r"[^\r\n\p{L}\p{N}]?"
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    return "|".join((
        f"{first}{upper}*{lower}+{ending}",
        f"{first}{upper}+{lower}*{ending}",
        digits,
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        BLANKS,
    ))  # fmt: skip


# DeepSeek's own list of letters with case, and its ranges of ideographs, kana and Hangul.
LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5"
    "\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba"
    "\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45"
    "\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe"
    "\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3"
    "\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06"
    "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)
ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
IDEOGRAPHS_AND_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
SIGNS = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"
SIGN_WITH_WORD = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
WORDS_OF_DEEPSEEK_3 = "|".join((
    SIGN_WITH_WORD, "[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+", " ?[\\p{P}\\p{S}]+[\r\n]*",
    "\\s*[\r\n]+", r"\s+(?!\S)|\s+",
))  # fmt: skip
WORDS_OF_SPARK = "|".join((
    SIGN_WITH_WORD, "[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+", r" ?[\p{P}\p{S}]+", "[\r\n]",
    r"\s+(?!\S)|\s+",
))  # fmt: skip
WORDS_OF_SEED = "|".join((
    CONTRACTIONS, "[^\r\n\\p{L}\\p{N}]?\\p{L}+", r"\p{N}{1}", " ?[^\\s\\p{L}\\p{N}\r\n]+",
    "\\s*[\r\n]+", r"\s+(?!\S)|\s+",
))  # fmt: skip
WORDS_OF_LING = "|".join((
    r"'(?i:[sdmt]|ll|ve|re)", r"[^\r\n\p{L}\p{N}]?+\p{L}+", r"\p{N}", r" ?[^\s\p{L}\p{N}]++[\r\n]*",
    r"\s*[\r\n]", r"\s+(?!\S)|\s+",
))  # fmt: skip
WORDS_OF_BLOOM = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"

GPT2 = PreTokenizer((GPT2_WORDS,))
GPT_NEOX = PreTokenizer((GPT2_WORDS,), "NFC")
STARCODER = PreTokenizer((SINGLE_DIGITS, GPT2_WORDS))
CL100K = (split(_words(r"\p{N}{1,3}")), BYTES)
LLAMA3 = PreTokenizer(CL100K, whole_words=True, begins=True)
QWEN2 = PreTokenizer((split(_words(r"\p{N}")), BYTES), "NFC")
O200K = _cased_words(r"\p{N}{1,3}", CONTRACTIONS + "?")
DEEPSEEK_CODER = PreTokenizer((
    split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(ASIAN), SINGLE_DIGITS, BYTES,
))  # fmt: skip
DEEPSEEK_LLM = PreTokenizer((
    split("[\r\n]"), split(rf"\s?[{LETTERS}]+"), split(SIGNS), split(r"\s+$"), split(ASIAN),
    SINGLE_DIGITS, BYTES,
))  # fmt: skip
DEEPSEEK_V3 = PreTokenizer((
    split(r"\p{N}{1,3}"), split(IDEOGRAPHS_AND_KANA), split(WORDS_OF_DEEPSEEK_3), BYTES,
))  # fmt: skip
SPARK = PreTokenizer((
    split(r"\p{N}{1,3}"), split(IDEOGRAPHS_AND_KANA), split(WORDS_OF_SPARK), SINGLE_DIGITS, BYTES,
))  # fmt: skip
LAGUNA = PreTokenizer((
    split(r"(?:\r?\n)+(?!\r?\n)", "MergedWithNext"), split(_words(r"\p{N}")), BYTES,
))  # fmt: skip
FALCON = PreTokenizer((
    {"type": "Punctuation", "behavior": "Contiguous"}, GPT2_WORDS,
    {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]"),
))  # fmt: skip

# Behind each name, models whose tokenizer.json says so.
PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "lcm": PreTokenizer((split(WORDS), BYTES)),  # trained here; llama.cpp refuses it by its name
    # GPT-2's words.
    "gpt-2": GPT2,  # openai-community/gpt2
    "phi-2": GPT2,  # microsoft/phi-2: CodeGen's
    "mpt": GPT_NEOX,  # mosaicml/mpt-7b: GPT-NeoX's
    "olmo": GPT_NEOX,  # allenai/OLMo-1.7-7B-hf: the same tokenizer as mpt's
    # The same, after each digit has become a word.
    "starcoder": STARCODER,  # bigcode/starcoder2-3b
    "refact": STARCODER,  # smallcloudai/Refact-1_6-base, and IBM's Granite up to 3
    "smollm": STARCODER,  # HuggingFaceTB/SmolLM-135M, SmolLM2
    "codeshell": STARCODER,  # WisdomShell/CodeShell-7B
    "mellum2": STARCODER,  # JetBrains/Mellum2
    "command-r": PreTokenizer(STARCODER.steps, "NFC"),  # CohereForAI/c4ai-command-r-v01
    "exaone": PreTokenizer(STARCODER.steps, "NFKC"),  # LGAI-EXAONE/EXAONE-3.5-7.8B-Instruct
    # OpenAI's cl100k, digits in threes.
    "llama-bpe": LLAMA3,  # meta-llama/Meta-Llama-3-8B, 3.1, 3.2, 3.3
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "pixtral": LLAMA3,  # mistralai/Mistral-Small-24B-Instruct-2501
    "smaug-bpe": PreTokenizer(CL100K, whole_words=True),  # Llama 3.1 as first converted
    "glm4": PreTokenizer(CL100K, whole_words=True),  # zai-org/GLM-4.7-Flash, GLM-5
    "dbrx": PreTokenizer(  # microsoft/phi-4, allenai/OLMo-2, ibm-granite/granite-4.1-3b
        (split(_words(r"\p{N}{1,3}"), "Removed", invert=True), BYTES)
    ),
    # The same, digits alone.
    "qwen2": QWEN2,  # Qwen/Qwen2.5-Coder, Qwen/Qwen3
    "deepseek-r1-qwen": QWEN2,  # deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B
    "stablelm2": QWEN2,  # stabilityai/stablelm-2-1_6b: its tokenization_arcade100k.py
    "qwen35": PreTokenizer(  # Qwen/Qwen3.5-9B
        (split(_words(r"\p{N}", r"[\p{L}\p{M}]")), BYTES), "NFC"
    ),
    "seed-coder": PreTokenizer((split(WORDS_OF_SEED), BYTES), "NFC"),  # zed's zeta, from Seed-Coder
    "bailingmoe2": PreTokenizer((split(WORDS_OF_LING), BYTES), "NFC"),  # inclusionAI/LLaDA2.0-mini
    "laguna": LAGUNA,  # poolside/Laguna-XS.2
    # OpenAI's o200k.
    "gpt-4o": PreTokenizer((split(O200K), BYTES), whole_words=True),  # openai/gpt-oss-20b
    "llama4": PreTokenizer((split(O200K), BYTES), whole_words=True),  # Llama-4-Scout-17B-16E
    "minimax-m2": PreTokenizer(  # MiniMaxAI/MiniMax-M2
        (split(O200K, "Removed", invert=True), BYTES), "NFC"
    ),
    "tekken": PreTokenizer(  # mistralai/Mistral-Nemo-Instruct-2407
        (split(_cased_words(r"\p{N}")), BYTES), whole_words=True, begins=True
    ),
    # One cut after the other.
    "deepseek-coder": DEEPSEEK_CODER,  # deepseek-ai/deepseek-coder-6.7b-instruct
    "deepseek-llm": DEEPSEEK_LLM,  # deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct
    "deepseek-v3": DEEPSEEK_V3,  # deepseek-ai/DeepSeek-V3, R1, V3.2, V4
    "spark2_5": SPARK,  # XHToken/Spark-X2.5-4B
    "falcon": FALCON,  # tiiuae/falcon-7b
    "bloom": PreTokenizer((split(WORDS_OF_BLOOM), BYTES)),  # bigscience/bloom-560m
}


def pre_tokenizer(name: str) -> PreTokenizer:
    """What a `tokenizer.ggml.pre` stands for; no name is guessed at: another cut gives other ids."""
    if name not in PRE_TOKENIZERS:
        raise FileError(f"GGUF metadata: no pre-tokenizer {brief(name)} (tokenizer.ggml.pre) is known; "
                        f"there are {', '.join(PRE_TOKENIZERS)}")  # fmt: skip
    return PRE_TOKENIZERS[name]
