from lcm import Backend, hookimpl


@hookimpl
def open_backend(host):
    return Backend("polite", {}, notes={"host": host.describe()})


@hookimpl
def doctor_checks():
    return {"mood": lambda: "good"}
