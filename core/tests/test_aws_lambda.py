"""The handler for AWS Lambda: what it completes, what it refuses, and when it stops."""

import base64
import importlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcm import models
from lcm.generate.loading import load_model
from lcm.text.tokenizer import Tokenizer

CODE = ["def add(a, b):\n    return a + b\n", "for i in range(10):\n    print(i)\n"] * 4
CONFIG = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
          "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 96}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer.train(CODE, vocabulary=300)
    models.save(models.fresh(CONFIG | {"vocab_size": tokenizer.vocabulary}, 3), path)
    tokenizer.save(path / "tokenizer.json")
    return path


@pytest.fixture(scope="module")
def served(folder):
    """The module as it is in a function whose model this is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LCM_MODEL", str(folder))
        return importlib.reload(importlib.import_module("lcm.serve.aws_lambda"))


@pytest.fixture
def handler(served):
    return served.handler


class Context:
    """Time that passes with every look at it, in milliseconds."""

    def __init__(self, left, step):
        self.left, self.step = left, step

    def get_remaining_time_in_millis(self):
        self.left -= self.step
        return self.left


def refusal(handler, event):
    answer = handler(event, None)
    assert set(answer) == {"status", "error"} and answer["status"] == 400, answer
    assert "\n" not in answer["error"] and len(answer["error"]) < 250
    return answer["error"]


def test_a_prompt_is_completed_as_load_model_completes_it(handler, folder):
    wanted = load_model(folder).complete("def add(", max_tokens=12)
    assert handler({"prompt": "def add(", "max_tokens": 12}, None) == {
        "status": 200, "text": wanted.text, "finish_reason": wanted.finish,
        "prompt_tokens": wanted.prompt_tokens, "completion_tokens": len(wanted.tokens),
    }  # fmt: skip
    assert len(wanted.tokens) == 12


def test_stop_strings_and_sampling_reach_the_model(handler):
    plain = handler({"prompt": "for i", "max_tokens": 20})
    stop = plain["text"][5:7]
    stopped = handler({"prompt": "for i", "max_tokens": 20, "stop": stop})
    assert stopped["finish_reason"] == "stop"
    assert stopped["text"] == plain["text"][: plain["text"].index(stop)]
    assert stopped == handler({"prompt": "for i", "max_tokens": 20, "stop": ["never", stop]})
    warm = {"prompt": "for i", "max_tokens": 20, "temperature": 5.0, "seed": 1}
    assert handler(warm) == handler(warm) != handler(warm | {"seed": 2})


def test_each_of_many_prompts_is_completed_in_its_place(handler):
    prompts = ["def add(", "for i", "x" * 500, ""]
    many = handler({"prompts": prompts[:2], "max_tokens": 8})
    alone = [handler({"prompt": prompt, "max_tokens": 8}) for prompt in prompts[:2]]
    assert many == {"status": 200, "completions": [
        {k: v for k, v in one.items() if k != "status"} for one in alone
    ]}  # fmt: skip
    third = handler({"prompts": prompts[:3], "max_tokens": 8})["completions"]
    assert third[:2] == many["completions"]
    assert "do not fit the model's context of 96" in third[2]["error"]
    assert handler({"prompts": []}) == {"status": 200, "completions": []}


@pytest.mark.parametrize("encoded", [False, True])
def test_a_request_by_http_is_answered_by_http(handler, encoded):
    request = {"prompt": "x = 'größer", "max_tokens": 4}
    body = json.dumps(request, ensure_ascii=False)
    if encoded:
        body = base64.b64encode(body.encode()).decode()
    answer = handler({"body": body, "isBase64Encoded": encoded, "requestContext": {}}, None)
    assert answer["statusCode"] == 200
    assert answer["headers"] == {"content-type": "application/json"}
    assert {"status": 200, **json.loads(answer["body"])} == handler(request)


@pytest.mark.parametrize(
    "event",
    [{"body": "{"}, {"body": ""}, {"body": None}, {"requestContext": {}}, {"body": "[" * 10**5},
     {"body": "é", "isBase64Encoded": True}, {"body": "/w==", "isBase64Encoded": True}, {"body": 3},
     {"body": "eyJwcm9t!cHQiOiAiYSJ9", "isBase64Encoded": True},
     {"body": "[1]"}, {"body": "{}"}],
)  # fmt: skip
def test_a_body_that_is_no_request_is_refused_by_http(handler, event):
    answer = handler(event, None)
    assert answer["statusCode"] == 400
    assert list(json.loads(answer["body"])) == ["error"]


WRONG = {
    "no object": (["def"], 'the event must be a JSON object, such as {"prompt": "def add("}'),
    "nothing to do": ({}, "give either prompt, a text, or prompts, a list of texts"),
    "both": ({"prompt": "a", "prompts": ["a"]}, "give either prompt"),
    "misspelt": ({"prompt": "a", "max_token": 3}, "no option 'max_token'; there are: prompt, prompts"),
    "prompt": ({"prompt": 3}, "prompt must be text, not 3"),
    "prompts": ({"prompts": "def"}, "prompts must be a list of texts, not 'def'"),
    "one of them": ({"prompts": ["a", None]}, "prompt must be text, not None"),
    "half a character": ({"prompt": "\ud800"}, "half a character"),
    "stop": ({"prompt": "a", "stop": 1}, "stop must be a list of texts, not 1"),
    "stops": ({"prompt": "a", "stop": [1]}, "stop must be text, not 1"),
    "empty stop": ({"prompt": "a", "stop": ""}, "a stop string must not be empty"),
    "text for a number": ({"prompt": "a", "max_tokens": "3"}, "max_tokens must be a whole number"),
    "truth for a number": ({"prompt": "a", "max_tokens": True}, "max_tokens must be a whole number"),
    "a fraction": ({"prompt": "a", "top_k": 1.5}, "top_k must be a whole number, 0 or more, not 1.5"),
    "below 0": ({"prompt": "a", "seed": -1}, "seed must be a whole number, 0 or more, not -1"),
    "none at all": ({"prompt": "a", "max_tokens": 0}, "max_tokens must be 1 or more, not 0"),
    "not a number": ({"prompt": "a", "temperature": float("nan")}, "temperature must be 0 or more"),
    "list for a number": ({"prompt": "a", "top_p": []}, "top_p must be a number, not []"),
    "too long": ({"prompt": "a" * 999}, "do not fit the model's context of 96"),
    "long and wrong": ({"prompt": ["y" * 9999]}, "prompt must be text, not ['yyy"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_meant_is_refused_in_one_line(handler, case):
    event, line = WRONG[case]
    assert line in refusal(handler, event)


VALUES = st.none() | st.booleans() | st.integers(-2, 6) | st.floats() | st.text(max_size=4)
REQUESTS = st.dictionaries(
    st.sampled_from(["prompt", "prompts", "max_tokens", "stop", "temperature", "top_k", "body"]),
    VALUES | st.lists(VALUES, max_size=2), max_size=4,
)  # fmt: skip


@given(event=VALUES | REQUESTS)
def test_every_event_has_an_answer(served, event):
    answer = served.handler(event, Context(1500, 100))
    assert answer.get("status", answer.get("statusCode")) in (200, 400), answer
    json.dumps(answer)


# The time.


def test_a_completion_ends_before_the_time_does(handler):
    whole = handler({"prompt": "for i", "max_tokens": 40}, Context(10**6, 1))
    assert whole["completion_tokens"] == 40
    cut = handler({"prompt": "for i", "max_tokens": 40}, Context(2000, 100))
    assert cut["finish_reason"] == "time"
    assert (
        10 <= cut["completion_tokens"] < 20
    )  # 100 ms each, of which 300 and what a token takes are left
    assert whole["text"].startswith(cut["text"]) and cut["text"]
    assert cut["prompt_tokens"] == whole["prompt_tokens"] > 0


def test_prompts_that_the_time_does_not_reach_say_so(handler):
    found = handler({"prompts": ["for i"] * 5, "max_tokens": 8}, Context(2000, 100))["completions"]
    assert [one["finish_reason"] for one in found] == ["length", "time", "time", "time", "time"]
    assert found[4] == {
        "text": "", "finish_reason": "time", "prompt_tokens": 0, "completion_tokens": 0,
    }  # fmt: skip


# What is not the caller's fault.


def test_an_error_of_the_functions_own_is_told_to_its_log_only(served, monkeypatch, capsys):
    monkeypatch.setattr(served, "_completion", lambda *_: 1 / 0)
    answer = served.handler({"prompt": "a"}, None)
    assert answer == {"status": 500, "error": "an error of the function's own; its log says more"}
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_one_line(monkeypatch, capsys, served, folder):
    monkeypatch.setenv("LCM_MODEL", "/nowhere/model.gguf")
    there = importlib.reload(served)
    assert capsys.readouterr().err.startswith("lcm: no model '/nowhere/model.gguf'")
    answer = there.handler({"body": '{"prompt": "a"}'}, None)
    assert answer["statusCode"] == 500
    assert json.loads(answer["body"])["error"].startswith("the model cannot be used: no model")
    monkeypatch.setenv("LCM_MODEL", str(folder))
    importlib.reload(served)


def test_the_setting_names_the_model_that_is_taken_when_none_is_named(monkeypatch, folder):
    monkeypatch.setenv("LCM_MODEL", str(folder))
    assert load_model().folder == folder
    monkeypatch.setenv("LCM_MODEL", "elsewhere")
    assert load_model(folder).folder == folder
