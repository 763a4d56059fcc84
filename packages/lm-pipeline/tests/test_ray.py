"""make-data and a sweep on Ray itself, whose workers are killed; run by hand, where Ray is installed."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

import pytest
import yaml

from .conftest import prose

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
LISTENING = "0A"
LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
END = "<|endoftext|>"
TRAIN = """
[data]
train = "tokens/train.npy"
validation = "tokens/validation.npy"
tokenizer = "tok"
[model]
seq_len = 16
d_model = 16
n_layers = 1
n_heads = 2
[training]
max_steps = 300
save_every = 2
"""


def family(of: int) -> dict[int, str]:
    """Process -> title, of those that a process has started, and they in turn."""
    parents, titles = dict[int, int](), dict[int, str]()
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(path.name)] = (path / "cmdline").read_text().replace("\0", " ")
    found, new = set[int](), {of}
    while new:
        new = {process for process, parent in parents.items() if parent in new}
        found |= new
    return {process: titles[process] for process in found}


def wait_until(holds: Callable[[], object]) -> None:
    for _ in range(12_000):
        if holds():
            return
        time.sleep(0.01)
    pytest.fail("it did not happen within two minutes")


class Killing:
    """A context in which one worker that does such a task is killed, when that holds, and all processes are noted."""

    def __init__(self, title: str, when: Callable[[], object] = lambda: True) -> None:
        self.killed: list[int] = []
        self.seen: set[int] = set()
        self.exposed: list[str] = []
        self._title, self._when, self._left = title, when, Event()
        self._watcher = Thread(target=self._watch)

    def __enter__(self) -> "Killing":
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._left.wait(0.001):
            processes = family(os.getpid())
            self.seen |= processes.keys()
            workers = [process for process, title in processes.items() if title.startswith(self._title)]
            if workers and not self.killed and self._when():
                self.exposed = open_to_others(set(processes))
                os.kill(workers[0], signal.SIGKILL)
                self.killed.append(workers[0])


def open_to_others(processes: set[int]) -> list[str]:
    """Addresses other than loopback on which these processes listen."""
    sockets = set()
    for process in processes:
        for file in Path(f"/proc/{process}/fd").glob("*"):
            with suppress(OSError):
                sockets.add(str(file.readlink()).removeprefix("socket:[").removesuffix("]"))
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    mine = [row[1] for row in rows if row[3] == LISTENING and row[9] in sockets]
    assert mine
    return [address for address in mine if address.split(":")[0] not in LOOPBACK]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes().replace(f'"{folder.name}"'.encode(), b"") for path in folder.iterdir()}


def made(folder: Path, output: str, *flags: str, started_by: Sequence[str] = ()) -> dict[str, bytes]:
    command = [
        *started_by,
        sys.executable,
        "-m",
        "lm_pipeline.commands.make_data",
        "--train",
        "all.txt",
        "--tokenizer",
        "tok",
    ]
    command += ["--separator", END, "--validation_fraction", "0.1"]
    command += ["--shard_bytes", "100000", "--threads", "2"]
    done = subprocess.run([*command, "--output", output, *flags], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return contents(folder / output)


@pytest.fixture
def text(folder: Path) -> Path:
    (folder / "all.txt").write_text(END.join(prose(200, seed) for seed in range(1000)))
    return folder


def test_make_data_with_a_worker_killed_writes_the_same_bytes_and_leaves_no_process(text: Path) -> None:
    with Killing("ray::_call") as ray:
        there = made(text, "there", "--on", "ray")
    assert ray.killed
    assert len(ray.seen) > 5
    assert ray.exposed == [], "it listens on loopback alone"
    wait_until(lambda: not any(Path(f"/proc/{process}").exists() for process in ray.seen))
    assert there == made(text, "here")


@pytest.mark.skipif(not shutil.which("uv"), reason="starts it by uv run")
def test_a_command_that_uv_has_started_works_in_its_environment(text: Path) -> None:
    """As the documents start it: Ray would make the workers an environment of their own."""
    (text / "pyproject.toml").write_text('[project]\nname = "notes"\nversion = "0"\n')
    there = made(text, "there", "--on", "ray", started_by=["uv", "run", "--no-sync", "--python", sys.executable])
    assert there == made(text, "here")


@pytest.fixture
def sweep_file(workplace: Path) -> Path:
    (workplace / "train.toml").write_text(TRAIN)
    rates = {"schedule.peak_lr": {"values": [1e-3, 2e-3, 3e-3]}}
    command = ["${program}", "--config", "train.toml"]
    (workplace / "sweep.yaml").write_text(yaml.safe_dump({"method": "grid", "command": command, "parameters": rates}))
    return workplace


def sweep(*flags: str) -> list[str]:
    program = "from lm_pipeline.commands.sweep import main; raise SystemExit(main())"
    return [sys.executable, "-c", program, "--sweep", "sweep.yaml", *flags]


def results(folder: Path) -> list[tuple[object, ...]]:
    """Of each trial what does not depend on the clock, and its weights by their files' names, which are hashes."""
    rows = [*csv.DictReader((folder / "sweep.csv").read_text().splitlines())]
    saved = [
        sorted(path.name for path in (folder / row["trial"] / "checkpoints").glob("*.safetensors")) for row in rows
    ]
    return [({**row, "metrics.seconds": ""}, weights) for row, weights in zip(rows, saved, strict=True)]


def test_a_sweep_with_a_worker_killed_has_the_same_results(sweep_file: Path) -> None:
    subprocess.run(sweep("--save_dir", "here"), check=True, capture_output=True, timeout=300)

    def has_saved() -> bool:
        return any((sweep_file / "there").glob("*/checkpoints/*.metadata"))

    with Killing("ray::_program", has_saved) as ray:
        done = subprocess.run(
            sweep("--save_dir", "there", "--on", "ray", "--workers", "2"), capture_output=True, text=True, timeout=300
        )
    assert done.returncode == 0, done.stderr
    assert ray.killed
    assert results(sweep_file / "there") == results(sweep_file / "here")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_stopped_saves_and_leaves_no_process(sweep_file: Path, number: signal.Signals) -> None:
    (sweep_file / "train.toml").write_text(TRAIN.replace("max_steps = 300", "max_steps = 100000"))
    process = subprocess.Popen(
        sweep("--save_dir", "out", "--on", "ray", "--workers", "2"), stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    wait_until(lambda: len([*(sweep_file / "out").glob("*/checkpoints/*.metadata")]) > 1)
    started = family(process.pid)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "the same command resumes the sweep" in said
    wait_until(lambda: not any(Path(f"/proc/{process}").exists() for process in started))
