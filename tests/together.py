"""Processes started by tests, which import the function they run and nothing else: not the program that runs pytest, nor what a test left as `__main__`."""
import multiprocessing
import os
import sys
import types
from contextlib import contextmanager
from pathlib import Path

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


def stal(words, told, folder, environment, before):
    "What `python -m stal_nb` does, in a process of its own: all that it says is in a file."
    import torch

    from stal_nb.cli import main

    torch.set_num_threads(1)
    file = os.open(told, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = ["stal_nb", *words]
    if before:
        before()
    sys.exit(main())


class Command:
    "`python -m stal_nb` with these words, without the seconds that importing takes; otherwise as `subprocess.Popen`. `before` is called first."

    def __init__(self, *words, told, folder=".", before=None, **environment):
        self.told = Path(told)  # a file
        self.process = start(forkserver(), stal, list(map(str, words)), str(told), str(folder), environment, before)
        self.pid = self.process.pid

    @property
    def said(self):
        return self.told.read_text(encoding="utf-8") if self.told.exists() else ""

    def poll(self):
        return self.process.exitcode

    def wait(self, seconds=300):
        self.process.join(seconds)
        assert self.poll() is not None, f"still at work after {seconds} s: {self.said[-2000:]}"
        return self.poll()
