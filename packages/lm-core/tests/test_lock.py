"""One process at a time in a folder: the lock holds against the living, and not for the dead."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lm_core.errors import UserError
from lm_core.run.folder import RunFolder

HOLD = """
import sys, time
from lm_core.disk.lock import Lock
from pathlib import Path
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_process_is_told_who_holds_the_folder_until_that_one_is_dead(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(UserError, match=rf"is in use by process {holder.pid}: "), RunFolder(tmp_path).hold():
                pass
        finally:
            holder.send_signal(signal.SIGKILL)
    with RunFolder(tmp_path).hold():
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_folder_made_for_nothing_is_taken_away_again(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with RunFolder(folder).hold():
        assert folder.is_dir()
    assert not (tmp_path / "a").exists()
    with RunFolder(folder).hold():
        (folder / "config.toml").touch()
    assert sorted(path.name for path in folder.iterdir()) == ["config.toml", "lock"]
    with RunFolder(folder).hold():
        pass
    assert (folder / "lock").exists(), "it was there before"


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to save_dir .*file/run: Not a directory"):
        RunFolder(tmp_path / "file" / "run").hold().__enter__()


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("untouched")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="cannot write to save_dir"):
        RunFolder(tmp_path / "run").hold().__enter__()
    assert (tmp_path / "outside").read_text() == "untouched"


def test_a_folder_that_is_gone_at_the_end_hides_no_error(tmp_path: Path) -> None:
    def fail() -> None:
        with RunFolder(tmp_path / "run").hold():
            shutil.rmtree(tmp_path / "run")
            raise UserError("the real one")

    with pytest.raises(UserError, match="the real one"):
        fail()
