from lcm import hookimpl


@hookimpl
def open_backend():
    return 42
