"""Medians, ratios within one process, and peak memory."""
import ctypes
import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path


def medians(functions: dict[str, Callable[[], object]], repeats: int = 9, warm: int = 2) -> dict[str, float]:
    "Median seconds of each function. Their runs alternate, so that a disturbance of the machine meets all of them."
    times: dict[str, list[float]] = {name: [] for name in functions}
    for k in range(warm + repeats):
        for name, function in functions.items():
            gc.collect()
            start = time.perf_counter()
            function()
            if k >= warm:
                times[name].append(time.perf_counter() - start)
    return {name: sorted(values)[len(values) // 2] for name, values in times.items()}


def resident() -> int:
    "Bytes of memory that this process holds."
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def peak_held() -> float:
    "MiB that this process has held at most. Not `ru_maxrss`: in a new process that begins at what its parent held."
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024


def peak_extra(function: Callable[[], object], every: float = 0.0005) -> int:
    "By how many bytes the memory held grows at most while `function` runs, seen by a thread that looks every half millisecond."
    function()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # give back what the allocator keeps, so that using it again is seen
    before, peak, done = resident(), 0, threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(every):
            peak = max(peak, resident() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    function()
    done.set()
    watcher.join()
    return max(peak, resident() - before)


def entry(name: str, value: float, unit: str, limit: float | None, detail: str) -> dict:
    "One line of the table. A limit is the largest value that is good enough."
    return {"name": name, "value": round(value, 3), "unit": unit, "limit": limit, "detail": detail}
