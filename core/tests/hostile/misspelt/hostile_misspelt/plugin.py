from lcm import Backend, hookimpl


@hookimpl
def open_backends():
    return Backend("misspelt", {})
