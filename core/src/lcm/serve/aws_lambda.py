r"""AWS Lambda: `handler` completes the prompts of an event, by the model of the setting `model`.

    {"prompt": "def add(", "max_tokens": 64, "stop": ["\n\n"]}      one completion
    {"prompts": ["def add(", "class Tree"], "temperature": 0.2}     one for each, in this order

With the event of a function URL or of API Gateway such an object is its body. A completion has `text`,
`finish_reason` (end, stop, length, or time: the function's time was up), `prompt_tokens` and
`completion_tokens`. What cannot be meant is answered with status 400 and one line in `error`.
"""

import base64
import dataclasses
import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

from lcm.errors import ContextError, LcmError, UsageError
from lcm.files.refusal import brief
from lcm.generate.loading import load_model
from lcm.generate.sampling import Sampling
from lcm.generate.text_model import TextModel

SAMPLING = tuple(field.name for field in dataclasses.fields(Sampling))
WHOLE = ("max_tokens", "top_k", "seed")
KNOWN = ("prompt", "prompts", "max_tokens", "stop", *SAMPLING)
MARGIN = 0.3  # seconds that are left for the answer, beside those of one token more


def _load() -> TextModel | LcmError:
    try:
        return load_model()
    except LcmError as error:
        print(f"lcm: {error}", file=sys.stderr)  # into the function's log
        return error


MODEL = _load()  # while the function starts, before there is an event


def handler(event: Any, context: Any = None) -> dict[str, Any]:
    """The answer to an event, also to one that is wrong; nothing is raised."""
    is_http = isinstance(event, dict) and ("requestContext" in event or "body" in event)
    try:
        status, answer = 200, _answer(_body(event) if is_http else event, _clock(context))
    except (UsageError, ContextError) as error:
        status, answer = 400, {"error": str(error)}
    except LcmError as error:
        status, answer = 500, {"error": str(error)}
    except Exception:
        traceback.print_exc()
        status, answer = 500, {"error": "an error of the function's own; its log says more"}
    if not is_http:
        return {"status": status, **answer}
    headers = {"content-type": "application/json"}
    return {"statusCode": status, "headers": headers, "body": json.dumps(answer)}


def _clock(context: Any) -> Callable[[], float]:
    """What tells the seconds that the function has left."""
    left = getattr(context, "get_remaining_time_in_millis", None)
    return (lambda: left() / 1000) if left else (lambda: math.inf)


def _body(event: Mapping[str, Any]) -> Any:
    """The JSON in the body of an HTTP request."""
    text = event.get("body") or ""
    try:
        if event.get("isBase64Encoded"):
            text = base64.b64decode(text, validate=True).decode()
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        raise UsageError('the body must be JSON, such as {"prompt": "def add("}') from None


def _answer(request: Any, left: Callable[[], float]) -> dict[str, Any]:
    if isinstance(MODEL, LcmError):
        raise LcmError(f"the model cannot be used: {MODEL}")
    prompts, options = _checked(request)
    if isinstance(prompts, str):
        return _completion(MODEL, prompts, options, left)
    return {"completions": [_one_of_many(MODEL, prompt, options, left) for prompt in prompts]}


def _one_of_many(
    model: TextModel, prompt: str, options: Mapping[str, Any], left: Callable[[], float]
) -> dict[str, Any]:
    """As `_completion`; what is wrong with one prompt stands in its place, and the others are completed."""
    try:
        return _completion(model, prompt, options, left)
    except ContextError as error:
        return {"error": str(error)}


def _completion(
    model: TextModel, prompt: str, options: Mapping[str, Any], left: Callable[[], float]
) -> dict[str, Any]:
    """One prompt's completion, as far as the time reaches."""
    texts, tokens, prompt_tokens, finish = [], 0, 0, "time"
    if left() > MARGIN:
        with closing(model.stream(prompt, **options)) as pieces:
            began = time.perf_counter()
            for piece in pieces:
                texts.append(piece.text)
                tokens += piece.token is not None
                if piece.finish and piece.work:
                    finish, prompt_tokens = piece.finish, piece.work.prompt_tokens
                elif left() < MARGIN + (time.perf_counter() - began) / tokens:
                    prompt_tokens = len(model.prompt_ids(prompt))
                    break
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens}
    return {"text": "".join(texts), "finish_reason": finish, **counts}


def _checked(request: Any) -> tuple[str | Sequence[str], dict[str, Any]]:
    """The prompt or prompts, and the arguments of `TextModel.stream`; `UsageError` says what is wrong."""
    if not isinstance(request, dict):
        raise UsageError('the event must be a JSON object, such as {"prompt": "def add("}')
    for name in request:
        if name not in KNOWN:
            raise UsageError(f"no option {str(name)[:40]!r}; there are: {', '.join(KNOWN)}")
    if ("prompt" in request) == ("prompts" in request):
        raise UsageError("give either prompt, a text, or prompts, a list of texts")
    prompts: Any = request.get("prompt", request.get("prompts"))
    for text in [prompts] if "prompt" in request else _texts("prompts", prompts):
        _is_text("prompt", text)
    stop = request.get("stop", ())
    stop = [stop] if isinstance(stop, str) else stop
    for text in _texts("stop", stop):
        _is_text("stop", text)
    numbers = {n: _number(n, v) for n, v in request.items() if n in (*SAMPLING, "max_tokens")}
    sampling = Sampling(**{name: numbers[name] for name in SAMPLING if name in numbers})
    return prompts, {
        "stop": stop, "max_tokens": numbers.get("max_tokens"), "sampling": sampling,
    }  # fmt: skip


def _texts(name: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise UsageError(f"{name} must be a list of texts, not {brief(value)}")
    return value


def _is_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise UsageError(f"{name} must be text, not {brief(value)}")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise UsageError(f"{name} has half a character in it, a lone surrogate")


def _number(name: str, value: Any) -> Any:
    whole = name in WHOLE
    fits = isinstance(value, int) if whole else isinstance(value, int | float)
    if not fits or isinstance(value, bool) or (whole and value < 0):
        kind = "a whole number, 0 or more" if whole else "a number"
        raise UsageError(f"{name} must be {kind}, not {brief(value)}")
    return value
