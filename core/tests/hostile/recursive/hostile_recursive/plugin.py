from lcm import Backend, hookimpl
from lcm.backend import discovery

names = [verdict.name for verdict in discovery.verdicts()]
ready = [backend.name for backend in discovery.ready()]


@hookimpl
def open_backend():
    return Backend("recursive", {}, notes={"ready": " ".join(ready)})
