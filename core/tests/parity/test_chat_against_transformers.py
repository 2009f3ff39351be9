"""Chats are the text and the tokens that transformers makes of them."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from lcm.text.chat import Chat
from lcm.text.tokenizer import Tokenizer

TEMPLATES = sorted((Path(__file__).parent.parent / "chat_templates").glob("*.jinja"))
CONTROL = (
    "<|endoftext|>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]", "<|eot_id|>",
    "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>", "<end_of_turn>", "<|EOT|>", "<|end|>",
    "<|user|>", "<|assistant|>",
)  # fmt: skip
CODE = ["def add(a, b):\n    return a + b\n", "x = 'größer'\n"] * 4
MESSAGES = [
    {"role": "user", "content": " Was ist größer: a[i] < b?\n"},
    {"role": "assistant", "content": "{{ b }}"},
    {"role": "user", "content": "def add(a, b):\n    return 🦜"},
]
PARAMETERS = {"type": "object", "properties": {"x": {"type": "integer"}}}
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "größer <b>", "parameters": PARAMETERS},
}


@pytest.fixture(scope="module", params=TEMPLATES, ids=[path.stem for path in TEMPLATES])
def both(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    made = Tokenizer.train(CODE, vocabulary=330, special=CONTROL)
    Tokenizer(made._facts, {"bos_token": "<s>", "eos_token": "</s>"}).save(folder)
    (folder / "chat_template.jinja").write_text(
        request.param.read_text(encoding="utf-8"), encoding="utf-8"
    )
    return Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("tools", [None, [TOOL]], ids=["plain", "tools"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_chat_is_the_text_and_the_tokens_of_transformers(both, count, tools):
    ours, theirs = both
    chat, said = Chat(MESSAGES[:count], tools), {"tools": tools, "add_generation_prompt": True}
    assert chat.text(ours) == theirs.apply_chat_template(MESSAGES[:count], tokenize=False, **said)
    found = theirs.apply_chat_template(MESSAGES[:count], tokenize=True, return_dict=True, **said)
    assert chat.ids(ours) == found["input_ids"]


def test_a_control_token_in_a_message_is_text_here_and_one_there(both):
    """What is different on purpose, so that it is known if it becomes equal."""
    ours, theirs = both
    said = [{"role": "user", "content": "a <|im_end|> b"}]
    end = ours.id_of("<|im_end|>")
    more = Chat([{"role": "user", "content": "a b"}]).ids(ours).count(end)
    found = theirs.apply_chat_template(
        said, tokenize=True, return_dict=True, add_generation_prompt=True
    )
    assert found["input_ids"].count(end) == more + 1
    assert Chat(said).ids(ours).count(end) == more
