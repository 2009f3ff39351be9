import os
import sys

from lcm import Backend, hookimpl

print("hello from Python")
os.write(1, b"hello from C\n")
sys.__stdout__.write("hello from a buffer\n")


@hookimpl
def open_backend():
    print("hello from open_backend")
    return Backend("prints", {})
