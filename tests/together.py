"""Processes started by tests, which import the function they run and nothing else: not the program that runs pytest, nor what a test left as `__main__`."""
import sys
import types
from contextlib import contextmanager

import torch


@contextmanager
def nameless_main():
    "Python's new processes import the `__main__` of their parent if it has a file or a name; inside, it has none."
    before = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = before


def spawn(function, *arguments, processes=2):
    "Run `function(rank, *arguments)` of a test's module in new processes and wait; an error in one of them ends all and is raised here."
    with nameless_main():
        torch.multiprocessing.spawn(function, arguments, nprocs=processes)


def start(context, function, *arguments):
    "A started process of a multiprocessing context."
    with nameless_main():
        process = context.Process(target=function, args=arguments)
        process.start()
    return process
