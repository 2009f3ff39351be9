import numpy as np

from lcm import Backend, hookimpl


def silu(a):
    return lambda: np.multiply(a["x"], 0.5, out=a["out"])


@hookimpl
def open_backend():
    return Backend("wrong", {"silu": silu})
