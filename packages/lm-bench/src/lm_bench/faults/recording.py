"""The file operations of a whole run, from its trace to a disk: one crash point after each of them."""

import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lm_bench.faults.bench import Bench
from lm_bench.faults.disk import Disk, Inode
from lm_bench.faults.tracer import CALLS, Call, attach, read_trace, stopped_thread
from lm_bench.faults.trial import Trial


@dataclass(frozen=True)
class CrashPoint:
    """The moment after an operation."""

    index: int
    what: str
    announced: int
    """The step of the last checkpoint that the run had said was proven."""
    disk: Disk


@dataclass
class _Open:
    """An open file, or a folder for `inode` None."""

    path: str
    inode: Inode | None
    offset: int = 0
    appends: bool = False


def record(bench: Bench, trial: Trial) -> list[Call]:
    """Run a trial that stops at its start, and trace it to its end."""
    started = bench.start(trial)
    thread = stopped_thread(bench, trial, started)
    tracer = attach(thread, Path(f"{trial.folder}.trace"), "-f", "-e", f"trace={CALLS}")
    os.kill(started.pid, signal.SIGCONT)
    code = bench.finish(started)
    tracer.wait(10)
    assert code == 0, f"the traced run failed: {bench.said(trial)}"
    return read_trace(Path(f"{trial.folder}.trace"))


def crash_points(calls: list[Call], root: str, announcements: str) -> Iterator[CrashPoint]:
    """Every moment at which the disk may differ from before. The disk is the same object each time: take a copy."""
    replay = _Replay(Disk(root), announcements)
    for index, call in enumerate(calls):
        if call.result >= 0 and replay.take(call):
            paths = " ".join(path.removeprefix(root) for path in (call.descriptor[1], *replay.named(call)) if path)
            yield CrashPoint(index, f"{call.name} {paths}", replay.announced, replay.disk)


class _Replay:
    """The calls of one process, done to a disk."""

    def __init__(self, disk: Disk, announcements: str):
        self.disk, self.announcements, self.announced = disk, announcements, 0
        self.open: dict[int, _Open] = {}

    def named(self, call: Call) -> list[str]:
        """The paths that a call names."""
        return [] if "write" in call.name else [text for text in call.strings if text.startswith(self.disk.root)]

    def take(self, call: Call) -> bool:
        """Whether it concerned the disk."""
        number, path = call.descriptor
        if "write" in call.name and path == self.announcements:
            self.announced = int(call.strings[0].split()[0])
            return True
        if call.name in ("open", "openat", "creat"):
            return self._opened(call)
        if call.name == "close":
            self.open.pop(number, None)
            return False
        if number in self.open:
            return self._on_open_file(call, self.open[number])
        return self._on_names(call)

    def _opened(self, call: Call) -> bool:
        path, disk = call.strings[0], self.disk
        if not (disk.concerns(path) or path == disk.root):
            self.open.pop(call.result, None)
            return False
        is_new = path not in disk.now
        if is_new:
            assert "O_CREAT" in call.text, f"{path} was not made by a call that was traced"
            disk.create(path)
        inode = disk.now[path]
        cut = inode is not None and "O_TRUNC" in call.text and inode.size > 0
        if cut and inode:
            inode.truncate(0)
        self.open[call.result] = _Open(path, inode, appends="O_APPEND" in call.text)
        return is_new or cut

    def _on_open_file(self, call: Call, file: _Open) -> bool:
        if file.inode is None:
            if call.name == "fsync":
                self.disk.flush_folder(file.path)
            return call.name == "fsync"
        match call.name:
            case "write" | "writev":
                at = file.inode.size if file.appends else file.offset
                file.inode.write(at, b"".join(call.buffers)[: call.result])
                file.offset = at + call.result
            case "pwrite64":
                numbers = re.findall(r", (\d+)\)", call.text)
                file.inode.write(int(numbers[-1]), call.buffers[0][: call.result])
            case "lseek":
                file.offset = call.result
                return False
            case "ftruncate":
                size = re.search(r", (\d+)\)", call.text)
                assert size
                file.inode.truncate(int(size[1]))
            case "fsync" | "fdatasync":
                file.inode.flush()
            case _:
                raise AssertionError(f"{call.name} is not modelled")
        return True

    def _on_names(self, call: Call) -> bool:
        paths = [path for path in call.strings if self.disk.concerns(path)]
        if not paths or "write" in call.name:
            return False
        if call.name in ("mkdir", "mkdirat"):
            self.disk.make_folder(paths[0])
        elif call.name in ("unlink", "unlinkat", "rmdir"):
            self.disk.remove(paths[0])
        elif call.name in ("rename", "renameat", "renameat2"):
            self.disk.rename(*paths)
        else:
            raise AssertionError(f"{call.name} is not modelled")
        return True
