"""What a backend computes, as JSON: the losses of tiny models, and how the model in the box goes on.

    python tests/arm64/computed.py BACKEND
"""

import json
import sys
import warnings

from lcm.backend import dispatch
from lcm.generate.loading import load_model
from lcm.testing import tiny

PROMPTS = ("def area(self", "class Stack:\n    def push(self, item):\n", "for name in sorted(")
TOKENS = 12


def computed(backend):
    """With what ran, by kernel: the backends."""
    dispatch.reset()
    with dispatch.use_backend(backend), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an op that it has no kernel for shows in what ran
        losses = {name: tiny.losses(name) for name in tiny.MODELS}
        model = load_model("")
        tokens = [model.complete(prompt, max_tokens=TOKENS).tokens for prompt in PROMPTS]
    return {"losses": losses, "tokens": tokens, "ran": {s: list(n) for s, n in dispatch.ran().items()}}


if __name__ == "__main__":
    print(json.dumps(computed(sys.argv[1]), default=list))
