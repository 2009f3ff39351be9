from lcm import Backend, hookimpl


@hookimpl
def open_backend():
    return Backend("liar", {"teleport": lambda a: lambda: None})
