"""strace, attached to a child that has stopped itself: the kernel's view of its file operations, and faults in them.

Faults go into one thread, that of one save, so a fault is a single one: what the run does later is not touched.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lm_bench.faults.bench import Bench, Started
from lm_bench.faults.trial import Trial

CALLS = (
    "open,openat,creat,write,writev,pwrite64,pwritev,lseek,fsync,fdatasync,sync_file_range,rename,renameat,renameat2,"
    "unlink,unlinkat,link,linkat,symlink,symlinkat,mkdir,mkdirat,rmdir,ftruncate,truncate,fallocate,close,dup,dup2,dup3"
)
CHANGING = (
    "write", "writev", "pwrite64", "fsync", "fdatasync", "rename", "renameat", "renameat2", "unlink", "unlinkat",
    "openat", "open", "mkdir", "mkdirat", "ftruncate",
)  # fmt: skip
"""System calls that a fault is put into; of openat those that create a file."""
ATTACHED_WITHIN = 10.0


@cache
@cache
def missing() -> str:
    """Why nothing can be traced here; empty when it can."""
    if not shutil.which("strace"):
        return "strace is not installed"
    # Tried on a process that is not its child: a system may allow the one and not the other.
    with subprocess.Popen(["sleep", "60"]) as target:
        command = ["strace", "-o", os.devnull, "-p", str(target.pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr
            said = tracer.stderr.readline()
            target.kill()
    return "" if "attached" in said else "strace may not trace here"


@dataclass(frozen=True)
class Call:
    """A system call of a trace."""

    thread: int
    name: str
    text: str
    """The line, strings in hexadecimal."""
    result: int

    @property
    def strings(self) -> list[str]:
        """Its quoted arguments, as text."""
        return [text.decode("utf-8", "surrogateescape") for text in self.buffers]

    @property
    def buffers(self) -> list[bytes]:
        """Its quoted arguments."""
        return [unhexed(text) for text in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', self.text)]

    @property
    def descriptor(self) -> tuple[int, str]:
        """The first argument of a call on an open file: its number and what it is open on."""
        found = re.match(r"\w+\((\d+)<((?:\\x[0-9a-f]{2}|[^>])*)>", self.text)
        return (int(found[1]), unhexed(found[2]).decode("utf-8", "surrogateescape")) if found else (-1, "")


def unhexed(text: str) -> bytes:
    r"""The bytes of \x41\x42."""
    return bytes.fromhex(text.replace("\\x", ""))


def attach(thread: int, out: Path, *options: str) -> "subprocess.Popen[bytes]":
    """Start strace on one thread, or with "-f" on all of its process, and wait until it holds it."""
    command = ["strace", "-y", "-xx", "-s", "16777216", "-o", str(out), *options, "-p", str(thread)]
    tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _until(lambda: "TracerPid:\t0\n" not in Path(f"/proc/{thread}/status").read_text() or tracer.poll() is not None)
    return tracer


def stopped_thread(bench: Bench, trial: Trial, started: Started) -> int:
    """Wait until the child has stopped itself; the thread that did, or 0 when it ended without."""
    main = Path(f"/proc/{started.pid}/stat")
    _until(lambda: main.read_text().rpartition(")")[2].split()[0] in "TZX")
    if main.read_text().rpartition(")")[2].split()[0] != "T":
        return 0
    lines = Path(trial.announced).read_text().splitlines() if trial.stop_at_save else [f"thread {started.pid}"]
    return next(int(line.split()[1]) for line in reversed(lines) if line.startswith("thread"))


def read_trace(path: Path) -> list[Call]:
    """The calls in the order in which they returned; one that never did is skipped."""
    begun: dict[int, str] = {}
    calls = []
    for line in path.read_text(encoding="ascii").splitlines():
        found = re.match(r"(?:(\d+) +)?(.*)", line)
        assert found
        thread, text = int(found[1] or 0), found[2]
        if text.endswith("<unfinished ...>"):
            begun[thread] = text.removesuffix("<unfinished ...>")
            continue
        resumed = re.match(r"<\.\.\. \w+ resumed>(.*)", text)
        if resumed:
            text = begun.pop(thread, "") + resumed[1]
        name = re.match(r"(\w+)\(", text)
        result = re.search(r"\) += (-?\d+)[^)]*(?:\(INJECTED\)|\([^()]*\))?[^()]*(?:\(INJECTED\))?$", text)
        if name and result:
            calls.append(Call(thread, name[1], text, int(result[1])))
    return calls


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + ATTACHED_WITHIN
    while not condition():
        assert time.monotonic() < end, "the child did not stop, or strace did not attach"
        time.sleep(0.001)
