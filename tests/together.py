"""Processes started by tests, which import the function they run and nothing else: not the program that runs pytest, nor what a test left as `__main__`."""
import multiprocessing
import sys
import types
from contextlib import contextmanager

from torch.multiprocessing import start_processes

IMPORTED = ["stal_nb.cli", "accelerate", "timm", "torch._dynamo"]  # seconds of each new process, where it does it itself


def forkserver():
    "A multiprocessing context whose processes have imported everything already."
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


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
    forkserver()
    with nameless_main():
        start_processes(function, arguments, nprocs=processes, start_method="forkserver")


def start(context, function, *arguments):
    "A started process of a multiprocessing context."
    with nameless_main():
        process = context.Process(target=function, args=arguments)
        process.start()
    return process
