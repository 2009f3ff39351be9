import numpy as np

from lcm import Backend, hookimpl


def silu(a):
    most = min(a["count"], 40)
    x, out = a["x"][:most], a["out"][:most]
    return lambda: np.divide(x, 1 + np.exp(-x), out=out)


@hookimpl
def open_backend():
    return Backend("wrong_at_scale", {"silu": silu})
