"""Running a notebook from top to bottom and storing it as a reader sees it: `python -m tools.docs execute NOTEBOOK ...`."""
from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.live import FRAMES


def small_png(data: str) -> str:
    "A PNG (base64) with 256 colours where that makes it smaller: a third of the size, and no difference that one sees. Class colours stay exact."
    from PIL import Image

    from stal_nb.labels import LABEL_SPACES

    picture, buffer = Image.open(io.BytesIO(base64.b64decode(data))), io.BytesIO()
    flat = Image.new("RGB", picture.size, "white")
    flat.paste(picture.convert("RGB"), mask=picture.convert("RGBA").getchannel("A"))
    classes = sorted({tuple(colour) for space in LABEL_SPACES.values() for colour in space.palette} | {(170, 170, 170), (255, 255, 255), (0, 0, 0)})
    free = 256 - len(classes)
    palette = flat.quantize(free, method=Image.Quantize.MEDIANCUT).getpalette()[: 3 * free]
    fixed = Image.new("P", (1, 1))
    fixed.putpalette([value for colour in classes for value in colour] + palette)
    flat.quantize(palette=fixed, dither=Image.Dither.FLOYDSTEINBERG).save(buffer, "PNG", optimize=True)
    return min(base64.b64encode(buffer.getvalue()).decode(), data, key=len)


def tidy(nb) -> None:
    "Leave in a notebook what a reader sees: no run counts, no timings, no settings of an editor, pictures of moderate size."
    nb.metadata = {k: nb.metadata[k] for k in ("kernelspec", "widgets") if k in nb.metadata}
    nb.metadata["kernelspec"] = {k: v for k, v in nb.metadata.get("kernelspec", {}).items() if k in ("display_name", "language", "name")}
    for cell in nb.cells:
        cell.metadata = {}
        if cell.cell_type != "code":
            continue
        cell.execution_count = None
        for output in cell.outputs:
            output.pop("execution_count", None) if output.output_type != "execute_result" else output.update(execution_count=None)
            if "metadata" in output:
                output["metadata"] = {}
            if "image/png" in output.get("data", {}) and FRAMES not in output["data"]:  # whose colours other pictures share
                output["data"]["image/png"] = small_png("".join(output["data"]["image/png"]))
            for mime, value in output.get("data", {}).items():
                if mime == "text/plain":  # addresses of objects change with every run
                    output["data"][mime] = re.sub(r" at 0x[0-9a-f]{8,}", "", "".join(value))


class Stuck(RuntimeError):
    "Kernel and client wait for each other: a message between them was lost."


async def watched(client, kernel, patience: int) -> None:
    "Run a notebook. Raises `Stuck` once the kernel and its children have used no processor for so many seconds."
    import psutil

    def used() -> float:
        process = psutil.Process(kernel.provisioner.pid)
        return sum(sum(p.cpu_times()[:2]) for p in (process, *process.children(recursive=True)))

    running = asyncio.ensure_future(client.async_execute(env={**os.environ, "STAL_NB_STORE": "1"}))  # notebooks leave out progress bars then
    last, since = 0.0, time.monotonic()
    try:
        while not (await asyncio.wait([running], timeout=min(5, patience / 8)))[0]:
            with contextlib.suppress(psutil.NoSuchProcess, AttributeError):  # not begun, or just ended
                if abs((now := used()) - last) > 0.1:  # less, too, is a change: a child has ended, and took its time with it
                    last, since = now, time.monotonic()
            if time.monotonic() > since + patience:
                raise Stuck(f"idle for {patience} s")
        running.result()
    finally:
        await kernel.shutdown_kernel(now=True)
        await asyncio.gather(running, return_exceptions=True)  # ends, because its kernel did


def execute(notebook: Path, timeout: int = 1800, patience: int = 60, attempts: int = 4) -> None:
    """Run a notebook in a fresh kernel from its own folder and store it with its outputs, whole or not at all. An error in a cell leaves the file as it was.

    Where a message between kernel and client is lost, both would wait for ever: after `patience` seconds without work a fresh kernel begins anew."""
    import nbformat
    from jupyter_client import AsyncKernelManager
    from nbclient import NotebookClient

    for attempt in range(1, attempts + 1):
        nb = nbformat.read(notebook, as_version=4)
        # sockets in a folder of its own: kernels started at once cannot take each other's port; a thread of its own: the caller may have a loop that runs
        with tempfile.TemporaryDirectory(prefix="stal") as folder, ThreadPoolExecutor(1) as threads:
            kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{folder}/kernel")
            client = NotebookClient(nb, km=kernel, timeout=timeout, resources={"metadata": {"path": str(notebook.parent)}})
            try:
                threads.submit(asyncio.run, watched(client, kernel, patience)).result()
                break
            except Stuck as problem:
                print(f"{notebook.name}: {problem}, attempt {attempt} of {attempts}", file=sys.stderr)
                if attempt == attempts:
                    raise
    tidy(nb)
    beside = notebook.with_name(f".{notebook.name}.tmp")
    nbformat.write(nb, beside)
    os.replace(beside, notebook)
