"""The fault campaign in its short form, and that it notices what it is there to notice."""

import json
import sys
from dataclasses import asdict
from importlib.metadata import entry_points
from types import SimpleNamespace

import numpy as np
import pytest

from lm_bench import cli, commands
from lm_bench.environment import observe
from lm_bench.faults.campaign import ROWS, SHORT, run_campaign
from lm_bench.faults.disk import KEPT, LOST, Disk, State
from lm_bench.faults.report import faults_markdown, faults_table
from lm_bench.faults.row import Row
from lm_bench.faults.tracer import missing, read_trace

INSTALLED = sorted(entry.name for entry in entry_points(group="lm.backends"))
"""MLX first: its processes start soonest."""
ON_ONE = tuple(name for name in ROWS if name != "commands")  # the programs are killed by tests/, where they are at home
ON_EVERY = ("steps", "poison", "ranks")
"""What depends on how a backend takes and loads its state, and finds a rank gone; the rest is the same for all."""
needs_backend = pytest.mark.skipif(not INSTALLED, reason="no backend is installed")


def quiet(_: str) -> None:
    pass


@pytest.mark.skipif(sys.platform != "linux", reason="faults are put in by Linux's means")
@pytest.mark.parametrize("backend", INSTALLED)
def test_the_short_campaign_finds_nothing(backend):
    only = ON_ONE if backend == INSTALLED[0] else ON_EVERY
    rows = run_campaign([backend], only, 0, SHORT, False, quiet)
    assert [row.violations for row in rows if row.violations] == []
    assert all(row.sound for row in rows)
    assert all(row.trials for row in rows if not row.skipped)
    assert {row.name for row in rows if row.skipped} <= ({"save", "power"} if missing() else set())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="faults are put in by Linux's means")
@pytest.mark.parametrize("backend", INSTALLED)
def test_the_whole_campaign_finds_nothing(backend):
    rows = run_campaign([backend], tuple(ROWS), 0, 1.0, False, quiet)
    assert [row.violations for row in rows if row.violations] == []
    assert all(row.sound for row in rows)


@needs_backend
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_writer_that_overwrites_in_place_and_flushes_nothing_is_noticed():
    [power] = run_campaign([INSTALLED[0]], ["power"], 0, SHORT, False, quiet, careless="in place")
    assert power.lost_saves
    assert any("had been announced" in text for text in power.violations)


@needs_backend
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_writer_that_makes_room_first_is_noticed():
    [save] = run_campaign([INSTALLED[0]], ["save"], 0, SHORT, False, quiet, careless="prune first")
    assert save.lost_saves


def written(*operations):
    """A disk with a file "/run/a" that holds "old", and then some operations."""
    disk = Disk("/run")
    inode = disk.create("/run/a")
    inode.write(0, b"old")
    inode.flush()
    disk.flush_folder("/run")
    for operation in operations:
        operation(disk)
    return disk


def states(disk, count=300):
    """What may be found: file name -> content."""
    draw = np.random.default_rng(0)
    found = (disk.after(disk.draw(draw)) for _ in range(count))
    return {frozenset((path, content) for path, content in state.items() if content is not None) for state in found}


def test_what_was_flushed_is_there_in_every_state():
    assert states(written()) == {frozenset({("/run/a", b"old")})}


def test_a_write_that_was_not_flushed_may_be_there_or_not_or_torn_by_sectors():
    new = b"x" * 512 + b"y" * 512
    found = states(written(lambda disk: disk.now["/run/a"].write(0, new)))
    contents = {content for state in found for _, content in state}
    zeros = bytes(512)
    assert {b"old", new, b"x" * 512 + zeros} <= contents
    assert contents <= {b"old", new, b"x" * 512 + zeros, b"old" + zeros[3:] + b"y" * 512, b"old" + bytes(1021)}


def test_a_file_beside_that_was_renamed_without_a_flush_may_be_empty():
    def replace(disk):
        disk.create("/run/a.new").write(0, b"new")
        disk.rename("/run/a.new", "/run/a")

    found = states(written(replace))
    assert frozenset({("/run/a", b"new")}) in found
    assert frozenset({("/run/a", b"old")}) in found
    assert frozenset({("/run/a", b"")}) in found
    assert all(any(path == "/run/a" for path, _ in state) for state in found), "a rename is there whole or not at all"


def test_names_in_a_folder_whose_own_name_is_lost_are_lost():
    def fill(disk):
        disk.make_folder("/run/inner")
        disk.create("/run/inner/b").flush()
        disk.flush_folder("/run/inner")

    disk = written(fill)
    lost = disk.after(State((False,), ()))
    assert set(lost) == {"/run", "/run/a"}


def test_a_cut_file_is_as_long_as_it_was_or_as_it_is():
    disk = written(lambda disk: disk.now["/run/a"].truncate(1))
    [inode] = disk.files()
    assert inode.content((KEPT,)) == b"o"
    assert inode.content((LOST,)) == b"old"


def test_a_trace_is_read_in_the_order_in_which_calls_return(tmp_path):
    path = tmp_path / "trace"
    path.write_text(
        r"""11  openat(AT_FDCWD<\x2f>, "\x2f\x61", O_RDWR|O_CREAT, 0666) = 3<\x2f\x61>
12  write(3<\x2f\x61>, "\x68\x69", 2 <unfinished ...>
11  fsync(3<\x2f\x61>) = -1 EIO (Input/output error) (INJECTED)
12  <... write resumed>) = 2
11  rename("\x2f\x61", "\x2f\x62") = -1 ENOENT (No such file or directory)
11  +++ exited with 0 +++
"""
    )
    calls = read_trace(path)
    assert [(call.thread, call.name, call.result) for call in calls] == [
        (11, "openat", 3),
        (11, "fsync", -1),
        (12, "write", 2),
        (11, "rename", -1),
    ]
    assert calls[2].descriptor == (3, "/a")
    assert calls[2].buffers == [b"hi"]
    assert calls[3].strings == ["/a", "/b"]


GOOD = Row("kill", "torch", trials=3, resumed=3, same=3)
BAD = Row("kill", "mlx", trials=3, resumed=3, same=2, violations=["--only kill --seed 0, trial 1: it differs"])


def test_tables_say_what_was_violated_and_how_to_see_it_again():
    for text in (faults_table([GOOD, BAD]), faults_markdown([GOOD, BAD], "a machine")):
        assert "--only kill --seed 0, trial 1" in text
        assert "SIGKILL at random instants" in text
    assert "a machine" in faults_markdown([GOOD], "a machine")


@pytest.mark.parametrize(("rows", "code"), [([GOOD], 0), ([GOOD, BAD], 1)])
def test_the_exit_code_says_whether_a_promise_was_broken(monkeypatch, capsys, rows, code):
    asked = []
    monkeypatch.setattr(commands, "run_campaign", lambda *arguments: asked.append(arguments) or rows)
    monkeypatch.setattr(commands, "load_backend", lambda _: SimpleNamespace(describe=lambda _: "torch 1.0"))
    monkeypatch.setattr(
        sys, "argv", ["lm-bench", "faults", "--json", "--short", "--only", "kill", "--backend", "torch"]
    )
    assert cli.main() == code
    assert asked[0][:4] == (("torch",), ("kill",), 0, SHORT)
    assert [row["same"] for row in json.loads(capsys.readouterr().out)["results"]] == [row.same for row in rows]


def test_the_json_of_campaigns_becomes_one_table(monkeypatch, capsys, tmp_path):
    environment = asdict(observe({"torch": "torch 1.0"}, 0.0))
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path, row in zip(paths, (GOOD, BAD), strict=True):
        path.write_text(json.dumps({"environment": environment, "results": [asdict(row)]}))
    words = ["lm-bench", "faults", "--results", *map(str, paths), "--output", "markdown"]
    monkeypatch.setattr(sys, "argv", words)
    assert cli.main() == 1
    said = capsys.readouterr().out
    assert said.count("torch 1.0") == 1
    assert said.count("| SIGKILL at random instants |") == 2
    paths[0].write_text("{}")
    assert cli.main() == 2
    assert "one.json is not the JSON of a campaign" in capsys.readouterr().err


def test_a_row_that_is_not_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lm-bench", "faults", "--only", "kil"])
    assert cli.main() == 2
    assert "--only kil: the rows are save, power, kill" in capsys.readouterr().err
