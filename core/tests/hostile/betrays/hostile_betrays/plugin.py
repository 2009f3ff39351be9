import os
import signal

from lcm import Backend, hookimpl


@hookimpl
def open_backend():
    if "LCM_PROBING" not in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
    return Backend("betrays", {})
