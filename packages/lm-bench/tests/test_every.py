"""`lm-bench all`, with stand-ins for the measurements."""

from types import SimpleNamespace

import pytest

from lm_bench import every
from lm_bench.cli import COMMANDS
from lm_bench.every import measure_all, parts, run_command
from lm_bench.flags import AllFlags
from lm_core.cli import parse_flags
from lm_core.errors import UserError


def test_every_part_is_a_command_that_takes_its_arguments(tmp_path):
    for part in parts(4, tmp_path, 100):
        name, *arguments = part.arguments
        parse_flags(COMMANDS[name].flags, f"lm-bench {name}", arguments)


def test_the_page_has_each_table_or_says_why_not(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(every, "find_spec", lambda name: name != "mlx")
    out = tmp_path / "page.md"
    wanted = []

    def run(arguments, seconds):
        assert 0 < seconds <= 60
        if wanted:  # the tables that are there already stand in the file
            assert f"row of {wanted[0]}" in out.read_text()
        if arguments[0] in ("gpu", "corpus"):
            raise UserError("there is no GPU")
        wanted.append(" ".join(arguments[:3]))
        return f"head\nrow of {wanted[-1]}\n"

    measure_all(AllFlags(minutes=1, out=str(out)), run)
    page = capsys.readouterr().out
    assert page == out.read_text()
    assert all(f"    head\n    row of {each}" in page for each in wanted)
    assert "## On a GPU" in page
    assert page.count("Not measured: there is no GPU.") == 2
    assert "Not measured: mlx not installed." in page
    assert str(tmp_path) not in page


def test_what_is_not_reached_says_so(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(every, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(every, "find_spec", lambda name: True)

    def run(arguments, seconds):
        nonlocal now
        given.append(seconds)
        now += 50
        return "row"

    given = []
    measure_all(AllFlags(minutes=1, out=""), run)
    page = capsys.readouterr().out
    assert given == [60, 10]
    assert page.count("    row") == 2
    assert page.count("no time was left") > 5


def test_a_command_gives_what_it_prints_or_why_it_failed(tmp_path):
    (tmp_path / "text.txt").write_text("A line of text.\n" * 9)
    made = run_command(["corpus", "--sources", str(tmp_path), "--out", str(tmp_path / "out.txt")], 60)
    assert "bytes from 1 files" in made
    with pytest.raises(UserError, match="name a text file"):
        run_command(["data"], 60)
    with pytest.raises(UserError, match="stopped when the time was over"):
        run_command(["data"], 0.01)


def test_a_page_that_cannot_be_written_is_a_clear_line(tmp_path):
    with pytest.raises(UserError, match="--out"):
        measure_all(AllFlags(minutes=1, out=str(tmp_path)), lambda *_: "row")
