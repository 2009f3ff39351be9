from lcm import Backend, hookimpl


@hookimpl
def open_backend():
    return Backend("twin", {})
