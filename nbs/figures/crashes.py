"""A disk whose every step can be watched, and a program that kills processes; for runtime/files, runtime/store and
tests."""

import builtins
import errno as error_numbers
import io
import json
import os
import os as real_os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from matplotlib import pyplot as plt
from PIL import Image, ImageFile
from torch import Tensor

from figures.store import COLOURS, label_picture
from stal_nb import store as store_module
from stal_nb.labels import CITYSCAPES, LabelSpace
from stal_nb.runtime import files as files_module
from stal_nb.runtime.errors import LabelError, StoreError
from stal_nb.runtime.files import atomic_write_bytes
from stal_nb.store import LabelStore

# A watched disk
#
# `WatchedDisk` stands in for `open` and `os` of the modules it watches. Everything is really done, and after every
# step it takes a note of two things. *Killed*: what the folder holds, which is what other programs see after the
# process is gone. *Power lost*: what is certain to be on the disk. It knows that from bookkeeping: the content of a
# file is certain as of its last `fsync`; a name in a folder is certain as of the folder's last `fsync`. What has not
# been flushed may or may not be there, in any order, so a power failure has two extreme outcomes: the names as they
# were last flushed, or the names as they are now; each leads to flushed content only.

Disk = dict[str, bytes]  # name -> content


class Instant(NamedTuple):
    "What is found after a crash behind one step."
    step: str  # the step that was done last
    killed: Disk  # after the process was killed
    power_lost: tuple[Disk, ...]  # after a power failure: the possible outcomes


class WatchedDisk:
    "Does what `open` and `os` do in one folder, and notes after each step what a crash would leave."

    def __init__(self, folder: Path):
        self.folder, self.instants = Path(folder), []
        self._content: dict[int, bytes] = {}  # file number -> what is certain
        self._names: dict[str, int] = {}  # name -> file number, as far as certain
        for name, number in self._files().items():
            self._names[name], self._content[number] = number, (self.folder / name).read_bytes()
        self.note("before")

    def __getattr__(self, name: str):
        return getattr(real_os, name)

    def _files(self) -> dict[str, int]:
        # it has no content
        return {f.name: f.stat().st_ino for f in self.folder.iterdir() if f.is_file() and f.name != ".lock"}

    def note(self, step: str) -> None:
        "Remember what a crash would leave now."
        now = self._files()
        surely = [{name: self._content.get(number, b"") for name, number in names.items()}
                  for names in (self._names, now)]
        different = surely[:1] if surely[0] == surely[1] else surely
        self.instants.append(Instant(step, {name: (self.folder / name).read_bytes() for name in now}, tuple(different)))

    def open_file(self, path, mode: str = "r", *arguments, **options):
        "Instead of the builtin `open`."
        if set(mode).isdisjoint("wxa"):
            return builtins.open(path, mode, *arguments, **options)
        file = builtins.open(path, mode, buffering=0)  # noqa: SIM115  who asked for it closes it
        kind = _kind(path)
        if "a" not in mode or not file.seek(0, real_os.SEEK_END):
            self._content[real_os.fstat(file.fileno()).st_ino] = b""  # new, or emptied
        self.note(f"{kind}: opened")
        return _WatchedFile(self, file, kind)

    def fsync(self, handle: int) -> None:
        real_os.fsync(handle)
        if stat.S_ISDIR(real_os.fstat(handle).st_mode):
            if not real_os.path.samestat(real_os.fstat(handle), real_os.stat(self.folder)):
                return  # the folder of earlier versions
            self._names = self._files()
            return self.note("folder: flushed")
        number = real_os.fstat(handle).st_ino
        name = next(name for name, found in self._files().items() if found == number)
        self._content[number] = (self.folder / name).read_bytes()
        self.note(f"{_kind(name)}: flushed")

    def replace(self, old, new) -> None:
        real_os.replace(old, new)
        self.note(f"{_kind(new)}: renamed")


class _WatchedFile:
    "A file that writes in two halves, with an instant between them."

    def __init__(self, disk: WatchedDisk, file, kind: str):
        self.disk, self.file, self.kind = disk, file, kind

    def __getattr__(self, name: str):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data: bytes) -> int:
        for part, step in ((data[: len(data) // 2], "half written"), (data[len(data) // 2 :], "written")):
            self.file.write(part)
            self.disk.note(f"{self.kind}: {step}")
        return len(data)


def _kind(path) -> str:
    return "log" if str(path).endswith(".jsonl") else "label"


@contextmanager
def watching(
    folder: Path,
) -> Iterator[WatchedDisk]:
    """Put a watched disk under `stal_nb.runtime.files`, the writers below, and those of a notebook, as long as the
    block lasts."""
    disk = WatchedDisk(folder)
    with ExitStack() as stack:
        for module in (files_module, store_module, sys.modules[__name__], sys.modules["__main__"]):
            stack.enter_context(patch.object(module, "os", disk, create=True))
            stack.enter_context(patch.object(module, "open", disk.open_file, create=True))
        yield disk


# Five ways to write a file


def open_and_write(path: Path, data: bytes) -> None:
    "As most code does."
    with open(path, "wb") as file:
        file.write(data)


def open_write_flush(path: Path, data: bytes) -> None:
    "The same, flushed to the disk."
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def rename_only(path: Path, data: bytes) -> None:
    "Beside the name, then renamed."
    beside = path.with_name(f".{path.name}.tmp")
    open_and_write(beside, data)
    os.replace(beside, path)


def flush_and_rename(path: Path, data: bytes) -> None:
    "Beside the name, flushed, then renamed."
    beside = path.with_name(f".{path.name}.tmp")
    open_write_flush(beside, data)
    os.replace(beside, path)

WRITERS: dict[str, Callable[[Path, bytes], None]] = {
    "open and write": open_and_write, "open, write, flush": open_write_flush, "rename": rename_only,
    "flush, rename": flush_and_rename,
    "atomic_write_bytes": atomic_write_bytes}

STEPS = ("before", "opened", "half written", "written", "flushed", "renamed", "folder flushed", "returned")


def crash_instants(
    writer: Callable[[Path, bytes], None],
    old: bytes,  # content of the file before
    new: bytes,  # content to write
) -> list[Instant]:
    "Write `new` over `old`, and note at every step what a crash would leave. The file is `street.png`."
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "street.png"
        atomic_write_bytes(path, old)
        with watching(path.parent) as disk:
            writer(path, new)
        disk.note("returned")
    return [i._replace(step=i.step.replace("folder: ", "folder ").removeprefix("label: ")) for i in disk.instants]


def found(
    disk: Disk,
    old: bytes,
    new: bytes,
) -> str:  # "old", "new", "no file", "empty", "half"
    "What a reader finds in `street.png`."
    data = disk.get("street.png")
    return "no file" if data is None else {old: "old", new: "new", b"": "empty"}.get(data, "half")

BAD = "#d9603b"


def _cell(axis, x: float, y: float, words: list[str], acknowledged: bool) -> None:
    "One cell of a table: the outcomes, in the colour of the worst."
    wrong = [w for w in words if w not in COLOURS or (acknowledged and w != "new")]
    colour = BAD if wrong else COLOURS["old" if "old" in words else "new"]
    axis.add_patch(plt.Rectangle((x - 0.47, y - 0.42), 0.94, 0.84, color=colour))
    axis.text(x, y, " or\n".join(words), ha="center", va="center", fontsize=8, linespacing=0.9,
              color="black" if colour == COLOURS["old"] else "white")


def crash_table(
    old: bytes,
    new: bytes,
) -> plt.Figure:
    "For five ways to write: what a reader finds after a crash behind each step. Orange breaks the promise."
    figure, axes = plt.subplots(1, 2, figsize=(14, 3.0), dpi=80, sharey=True)
    for row, writer in enumerate(WRITERS.values()):
        for instant in crash_instants(writer, old, new):
            column, acknowledged = STEPS.index(instant.step), instant.step == "returned"
            _cell(axes[0], column, row, [found(instant.killed, old, new)], acknowledged)
            _cell(axes[1], column, row, list(dict.fromkeys(found(d, old, new) for d in instant.power_lost)),
                  acknowledged)
    for axis, title in zip(axes, ("found after the process was killed",
                                  "found after a power failure (the worst that is possible)")):
        axis.set(xlim=(-0.5, len(STEPS) - 0.5), ylim=(len(WRITERS) - 0.5, -0.5), title=title)
        axis.set_xticks(range(len(STEPS)), [s.replace(" ", "\n") for s in STEPS], fontsize=8)
        axis.set_yticks(range(len(WRITERS)), list(WRITERS), fontsize=9)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    figure.tight_layout()
    return figure


# Pictures of crashes
#
# `glimpse` reads a file as forgivingly as some programs do: missing rows of pixels become id 0.


def glimpse(
    data: bytes | None,
) -> np.ndarray | str:  # (H, W, 3) uint8, or words
    "What a forgiving reader makes of a file."
    if not data:
        return "no file" if data is None else "empty file"
    try:
        with patch.object(ImageFile, "LOAD_TRUNCATED_IMAGES", True):
            return label_picture(np.array(Image.open(io.BytesIO(data))))
    except Exception:
        return "cannot be read"


def _show_glimpse(axis, data: bytes | None, bad: bool) -> None:
    seen = glimpse(data)
    if isinstance(seen, str):
        axis.text(0.5, 0.5, seen, ha="center", va="center", transform=axis.transAxes, fontsize=9, color=BAD)
        axis.set(xlim=(0, 256), ylim=(128, 0), aspect=1)
    else:
        axis.imshow(seen)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(color=BAD if bad else "#999999", linewidth=3 if bad else 0.8)


def crash_strip(
    old: bytes,
    new: bytes,
) -> plt.Figure:
    "A file is replaced: what is found under its name after a kill at each step, for plain writing and for ours."
    steps = [s for s in STEPS if s != "folder flushed"]
    figure, axes = plt.subplots(2, len(steps), figsize=(14, 2.9), dpi=80)
    for row, name in zip(axes, ("open and write", "atomic_write_bytes")):
        instants = {i.step: i for i in crash_instants(WRITERS[name], old, new)}
        for axis, step in zip(row, steps):
            if step not in instants:
                axis.axis("off")
                continue
            outcome = found(instants[step].killed, old, new)
            _show_glimpse(axis, instants[step].killed.get("street.png"), outcome not in COLOURS)
            axis.set_title(f"{step}: {'half a file' if outcome == 'half' else outcome}", fontsize=9,
                           color="black" if outcome in COLOURS else BAD)
        row[0].set_ylabel(name.replace("_bytes", "_\nbytes").replace("and", "\nand"), fontsize=9)
    figure.tight_layout()
    return figure


def show_instant(
    instants: list[Instant],  # from `crash_instants`
    number: int,  # which; the last one if there are fewer
    event: str = "process killed",  # or "power failure"
    figure=None,  # to draw into
) -> plt.Figure:
    "The files in the folder, and the picture under the name, after a crash behind a step."
    instant = instants[min(number, len(instants) - 1)]
    old, new = instants[0].killed["street.png"], instants[-1].killed["street.png"]
    disks = (instant.killed,) if event == "process killed" else instant.power_lost
    figure = figure or plt.figure(figsize=(12, 1.9), dpi=80, layout="constrained")
    axes = figure.subplots(1, 4)
    choice = ": two outcomes are possible" if len(disks) > 1 else ""
    axes[0].set_title(f"{event} after '{instant.step}'{choice}", fontsize=10, loc="left")
    for listing, picture, disk in zip(axes[::2], axes[1::2], disks):
        outcome = found(disk, old, new)
        bad = outcome not in COLOURS or (instant.step == "returned" and outcome != "new")
        files = [f"{_short(name):<17}{len(data):>6,} bytes"
                 for name, data in sorted(disk.items(), reverse=True)] or ["(no file)"]
        listing.text(0, 0.5, "\n".join(files), family="monospace", fontsize=10, va="center",
                     transform=listing.transAxes)
        _show_glimpse(picture, disk.get("street.png"), bad)
        picture.set_title(outcome, fontsize=10, color=BAD if bad else "black", loc="right")
    for axis in (axes[0], axes[2], *axes[2 * len(disks) :]):
        axis.axis("off")
    return figure


def _short(name: str) -> str:
    return f".street.png.….{name.rsplit('.', 1)[1]}" if name.startswith(".") else name


def compare_instants(
    recorded: dict[str, list[Instant]],  # writer -> instants
    chosen: list[tuple[str, int, str]],  # writer, number of the instant, event
) -> plt.Figure:
    "Several crashes below each other."
    figure = plt.figure(figsize=(12, 1.7 * len(chosen)), dpi=80, layout="constrained")
    for part, (writer, number, event) in zip(figure.subfigures(len(chosen), 1), chosen):
        show_instant(recorded[writer], number, event, part)
        part.suptitle(writer, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


# A crash at every instant of `save`


def save_instants(
    old: Tensor,  # (H, W) the label in the store
    new: Tensor,  # (H, W) the label that is saved
    label_space: LabelSpace,
) -> list[dict]:  # one row an instant
    "Save a second version of a label, and ask at every step what a fresh store would find after a crash."
    with tempfile.TemporaryDirectory() as folder:
        store = LabelStore(folder, label_space)
        store.save("street", old, annotator="Ada", seconds=200)
        with watching(Path(folder)) as disk:
            store.save("street", new, annotator="Ada", seconds=300)
        disk.note("save has returned")
    rows = []
    for instant in disk.instants:
        outcomes = [_reopen(state, old, new, label_space) for state in (instant.killed, *instant.power_lost)]
        rows.append({
            "last step": instant.step, "after a kill": outcomes[0][0], "records": outcomes[0][1],
            "lines in the log": instant.killed["provenance.jsonl"].count(b"\n"),
            "temporary files": sum(name.endswith(".tmp") for name in instant.killed),
            "after power failure": " or ".join(sorted({label for label, _ in outcomes[1:]}, reverse=True))})
    return rows


def _reopen(disk: Disk, old: Tensor, new: Tensor, label_space: LabelSpace) -> tuple[str, str]:
    "Put a disk's files into a folder, open a store there, and ask for label and provenance."
    with tempfile.TemporaryDirectory() as folder:
        for name, data in disk.items():
            (Path(folder) / name).write_bytes(data)
        store = LabelStore(folder, label_space)
        try:
            labels = store.load("street")
        except (StoreError, LabelError):
            return "torn or missing", ""
        label = "old" if torch.equal(labels, old) else "new" if torch.equal(labels, new) else "something else"
        return label, ", ".join(str(r["version"]) for r in store.provenance("street"))


# Killing for real
#
# The program below runs on its own, so that it is small and has one thread. It forks a child that saves without end
# and reports each label once `save` has returned, kills the child at a random instant, and looks at what is on the
# disk.

KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
import numpy as np, torch
from PIL import Image
from stal_nb.runtime.errors import StalError
from stal_nb.labels import CITYSCAPES
from stal_nb.store import LabelStore

folder, kills, writers, seed = json.loads(sys.argv[1])
torch.set_num_threads(1)
rng, chance = np.random.default_rng(seed), random.Random(seed)
patterns = [torch.from_numpy(rng.integers(0, 19, (96, 192))) for _ in range(8)]

def save(writer, store, k):
    if writer == "store":
        store.save(f"street/{k % 5}", patterns[k % 8], annotator="Ada", seconds=1, number=k)
    else:
        Image.fromarray(patterns[k % 8].numpy().astype(np.uint8)).save(store.file(f"street/{k % 5}"))

def wrong(store, k, next_k):
    "Why the acknowledged label k is not there, or ''."
    allowed = [patterns[k % 8]] + [patterns[next_k % 8]] * (next_k % 5 == k % 5)
    try:
        found = store.load(f"street/{k % 5}")
    except StalError:
        return "torn"
    return "" if any(torch.equal(found, a) for a in allowed) else "other"

for writer in writers:
    root = Path(folder) / writer
    (root / "street").mkdir(parents=True)
    store, acknowledged, count, next_k = LabelStore(root, CITYSCAPES), {}, 0, 0
    result = {"writer": writer, "kills": kills, "acknowledged": 0, "lost": 0, "torn files": 0,
              "leftovers": 0, "leftovers after opening": 0}
    save(writer, store, 0)  # the first is slow
    started = time.perf_counter()
    save(writer, store, 0)
    # seconds: also a slow disk shall finish some labels between two kills
    pace = max(0.03, 3 * (time.perf_counter() - started))
    for _ in range(kills):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            k = next_k
            while True:
                save(writer, store, k)
                os.write(writing, b"%d\\n" % k)
                k += 1
        os.close(writing)
        time.sleep(chance.uniform(0.3, 1.7) * pace)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with open(reading, "rb") as pipe:
            done = [int(line) for line in pipe]
        acknowledged.update({k % 5: k for k in done})
        next_k = done[-1] + 1 if done else next_k
        result["acknowledged"] += len(done)
        result["leftovers"] += len(list(root.rglob("*.tmp")))
        store = LabelStore(root, CITYSCAPES)
        result["leftovers after opening"] += len(list(root.rglob("*.tmp")))
        problems = [wrong(store, k, next_k) for k in acknowledged.values()]
        result["lost"] += sum(map(bool, problems))
        result["torn files"] += problems.count("torn")
        if writer == "store":
            for k in acknowledged.values():
                records = store.provenance(f"street/{k % 5}")
                assert [r["version"] for r in records] == list(range(1, len(records) + 1))
                assert records[-1]["number"] == k or records[-1]["number"] == next_k
    print(json.dumps(result))
"""


def kill_trials(
    folder: str | Path,  # new; labels are saved there
    kills: int,
    writers: tuple[str, ...] = ("pillow", "store"),  # `image.save(path)`, `LabelStore.save`
    seed: int = 0,  # of labels and instants
) -> list[dict]:  # per writer: kills, acknowledged, lost, torn files, leftovers, leftovers after opening
    """Kill a process that saves labels, again and again, and count what was lost. Needs a system with `fork` (not
    Windows)."""
    done = subprocess.run([sys.executable, "-c", KILLER, json.dumps([str(folder), kills, writers, seed])],
                          capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


# A disk that fails


class _FullFile(_WatchedFile):
    "A file that takes a number of bytes and then refuses."

    def __init__(self, file, room: int, error: OSError):
        self.file, self.room, self.error = file, room, error

    def write(self, data: bytes) -> int:
        self.file.write(data[: self.room])
        if len(data) > self.room:
            raise self.error
        self.room -= len(data)
        return len(data)


@contextmanager
def failing_disk(
    room: int | None = None,  # bytes that can be written to a file; None: it cannot even be opened
    error: str = "ENOSPC",  # name of the system's error
    only: str = "",  # files whose name ends in this
) -> Iterator[None]:
    "Writing fails in `stal_nb.runtime.files`, and in the notebook that defines it, as long as the block lasts."
    number = getattr(error_numbers, error)

    def opened(path, mode: str = "r", *arguments, **options):
        if set(mode).isdisjoint("wxa") or not str(path).endswith(only):
            return builtins.open(path, mode, *arguments, **options)
        if room is None:
            raise OSError(number, os.strerror(number), str(path))
        return _FullFile(builtins.open(path, mode, buffering=0), room, OSError(number, os.strerror(number)))

    with patch.object(files_module, "open", opened,
                      create=True), patch.object(sys.modules["__main__"], "open", opened, create=True):
        yield

RACER = """
import sys, torch
from stal_nb.labels import CITYSCAPES
from stal_nb.store import LabelStore, StaleLabelError

root, times, checked = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True"
store, refused = LabelStore(root, CITYSCAPES), 0
print("ready", flush=True)
sys.stdin.readline()
for _ in range(times):
    while True:
        labels, version = store.load_with_version("counter")
        labels[0, int((labels[0] != 0).sum())] = 1
        try:
            store.save("counter", labels, base=version if checked else None, keep=False)
            break
        except StaleLabelError:
            refused += 1
print(refused)
"""


def race(
    root: str | Path,  # new; a store is made there
    times: int,  # how often each adds one
    checked: bool,  # whether they say which version they started from
    writers: int = 2,
) -> dict:  # added, counted, lost, refused
    """Processes that add one to a counter, a label of one row, at the same time: additions that were lost, and saves
    that were refused."""
    store = LabelStore(root, CITYSCAPES)
    store.save("counter", torch.zeros(1, 2 * writers * times, dtype=torch.int64))
    command = [sys.executable, "-c", RACER, str(root), str(times), str(checked)]
    racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
              for _ in range(writers)]
    for racer in racers:
        racer.stdout.readline()  # ready
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    refused = [int(racer.communicate()[0]) for racer in racers]
    counted = int((store.load("counter") != 0).sum())
    return {"base given": checked, "added": writers * times, "counted": counted, "lost": writers * times - counted,
            "refused": sum(refused)}
