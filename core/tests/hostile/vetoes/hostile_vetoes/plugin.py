from lcm import Backend, hookimpl


@hookimpl
def veto(host):
    return "needs a full moon"


@hookimpl
def open_backend():
    return Backend("vetoes", {})
