"""The save folder: the runs in it, and the checkpoint to resume.

    001-ptb/  002-wikitext2/  ...   a run each, numbered in the order of their start (`lm_core.run.folder`)
    data/                           datasets and token files, for all of them
    unfinished-<40 hex digits>/     a run that is being made; it gets its number when it is whole
    lock                            whose the folder is

A run is never overwritten. Training from another checkpoint than the newest is a run of its own, which starts with a
copy of that checkpoint, so the run with the highest number is always the one to resume, whatever the clock said.
Nothing is written through a link that leads out of the folder: a run that is such a link is resumed as a new run.
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from lm_core.disk.files import flush_folder, make_folder, write_whole
from lm_core.disk.lock import Lock
from lm_core.disk.untrusted import check_inside, open_inside
from lm_core.errors import UserError
from lm_core.run.checkpoint import Checkpoint, Checkpoints, DamagedError
from lm_core.run.folder import RunFolder

RAM_DISK = Path("/Volumes/RAMDisk")
_SHORTEST = 4
_UNFINISHED = re.compile(r"unfinished-[0-9a-f]{40}")
_NUMBER = re.compile(r"(\d{3,})-")


def default_folder() -> Path:
    """On the RAM disk where there is one, which spares a laptop's SSD; else beside the other runs."""
    return (RAM_DISK if RAM_DISK.is_dir() else Path("runs")) / "transformer-lm"


@dataclass(frozen=True)
class Found:
    """The run and the checkpoint to resume."""

    run: RunFolder
    checkpoint: Checkpoint | None
    """None for a run that has none, as when it was killed before it saved any."""
    newest: bool
    """Whether it is the newest checkpoint of all, so that the run itself is resumed."""

    @property
    def name(self) -> str:
        """Description of it."""
        if self.checkpoint is None:
            return f"run {self.run.path}, which has no checkpoint"
        name, step = self.checkpoint.path.stem[:12], self.checkpoint.step
        return f"checkpoint {name} of {self.run.path} (step {step:,})"

    @property
    def is_resumed(self) -> bool:
        """Whether the run itself is resumed. One without a checkpoint, or elsewhere by a link, is left as it is."""
        return self.newest and self.checkpoint is not None and not self.run.path.is_symlink()


def copy_into(run: RunFolder, found: Found) -> None:
    """Give a run that begins from another's checkpoint that checkpoint, and the other's records up to there.

    Raises:
        OSError: when it cannot be written.
    """
    if found.run.metrics.exists():  # the log drops what comes after the checkpoint
        with open_inside(found.run.metrics, found.run.path) as file:
            write_whole(run.metrics, file.read())
    if found.checkpoint:
        make_folder(run.checkpoints)
        path = found.checkpoint.path
        for source in (path.with_suffix(".safetensors"), path):
            write_whole(run.checkpoints / source.name, source.read_bytes())


class SaveFolder:
    """All runs of one save folder."""

    def __init__(self, path: Path, data: Path | None = None):
        self.path, self.data = path, data or path / "data"

    def hold(self) -> Lock:
        """The folder as this process's alone, for as long as the context lasts.

        Raises:
            UserError: when the datasets' folder is a link that leads out of it.
        """
        try:
            check_inside(self.data, self.data.parent)
        except OSError as error:
            raise UserError(
                f"cannot write to save_dir {self.path}: {error.strerror}; --data_dir names a folder"
            ) from None
        return Lock(self.path)

    def runs(self) -> list[RunFolder]:
        """The runs, the one started last first."""
        return [run for _, path in sorted(self._numbered(), reverse=True) if (run := RunFolder(path)).holds_run()]

    def _numbered(self) -> list[tuple[int, Path]]:
        return [(int(found[1]), path) for path in self.path.glob("*-*") if (found := _NUMBER.match(path.name))]

    def begin(self, name: str, fill: Callable[[RunFolder], None]) -> RunFolder:
        """A new run with the next number. Its folder appears when `fill` has written what it begins with, or never.

        Raises:
            OSError: when it cannot be written.
        """
        number = max((number for number, _ in self._numbered()), default=0) + 1
        beside, run = self.path / f"unfinished-{token_hex(20)}", RunFolder(self.path / f"{number:03d}-{name}")
        for path in self.path.glob("unfinished-*"):
            if _UNFINISHED.fullmatch(path.name):  # a killed process's
                shutil.rmtree(path, ignore_errors=True)
        try:
            make_folder(beside)
            fill(RunFolder(beside))
            beside.rename(run.path)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        flush_folder(self.path)
        return run

    def find(self, identifier: str, warn: Callable[[str], None], *, saved: bool = False) -> Found | None:
        """The checkpoint of that name, or the newest good one; None when there is none.

        Args:
            identifier: a name or the beginning of one; "" for the newest.
            warn: takes a line on each damaged checkpoint.
            saved: whether a run that has not saved any checkpoint yet is skipped.

        Raises:
            UserError: when there is none of that name, or more than one, or only damaged ones.
            DamagedError: when the one of that name is.
        """
        if identifier:
            return self._named(identifier.lower().removesuffix(".metadata").removesuffix(".safetensors"), warn)
        return self._newest(warn, saved)

    def _named(self, identifier: str, warn: Callable[[str], None]) -> Found:
        runs = self.runs()
        paths = [(run, path) for run in runs for path in Checkpoints(run.checkpoints).files()]
        fitting = [(run, path) for run, path in paths if path.stem.startswith(identifier)]
        if len({path.stem for _, path in fitting}) != 1 or len(identifier) < _SHORTEST:
            known = ", ".join(f"{path.stem[:12]} ({run.path.name})" for run, path in paths[:5]) or "none"
            which = "more than one" if len(fitting) > 1 else "no"
            if len(identifier) < _SHORTEST:
                raise UserError(f"--identifier {identifier}: give {_SHORTEST} letters or more; there is: {known}")
            raise UserError(
                f"--identifier {identifier}: {which} checkpoint in {self.path} has this name; there is: {known}"
            )
        run, path, checkpoint = self._first_good(fitting)
        latest = Checkpoints(run.checkpoints).newest(warn)
        last = next(other for other in runs if other.has_checkpoint())
        is_latest = latest is not None and latest.path == path and run.path == last.path
        return Found(run, checkpoint, is_latest)

    def _first_good(self, copies: list[tuple[RunFolder, Path]]) -> tuple[RunFolder, Path, Checkpoint]:
        """Of a checkpoint that several runs hold, a copy that is whole."""
        for place, (run, path) in enumerate(copies):
            try:
                return run, path, Checkpoints(run.checkpoints).read(path)
            except DamagedError:
                if place + 1 == len(copies):
                    raise
        raise AssertionError("there is a copy")

    def _newest(self, warn: Callable[[str], None], saved: bool) -> Found | None:
        """The newest run that has a whole checkpoint; else, unless it must have `saved`, the newest that has none."""
        runs = self.runs()
        damaged, empty = False, list[RunFolder]()
        for run in runs:
            checkpoints = Checkpoints(run.checkpoints)
            if checkpoint := checkpoints.newest(warn):
                for other in empty:
                    warn(f"note: {other.path.name} is newer and has no checkpoint: skipped")
                return Found(run, checkpoint, not damaged)
            if checkpoints.files():
                damaged = True
                warn(f"{run.path.name}: no checkpoint is intact")
            else:
                empty.append(run)
        if damaged:
            raise UserError(f"no checkpoint in {self.path} is intact: give --new_model to start another model")
        return Found(empty[0], None, True) if empty and not saved else None
