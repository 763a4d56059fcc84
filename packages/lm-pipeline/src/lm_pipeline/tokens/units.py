"""Finished work units on disk, from which a killed make-data resumes.

    <output>/.parts/job                      the fingerprint of the job that they belong to
    <output>/.parts/000003.train.npy(.json)  the ids of the unit's documents, for each split that has any: token files
    <output>/.parts/000003.json              where the next unit begins

The record of a unit is written last: a unit is whole once it exists. Shards are the same in the output folder itself,
where they stay (`lm_core.data.shards`).
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import Field

from lm_core.config import Config
from lm_core.data.shards import COMPLETE, JOB, record_path, shard_path
from lm_core.data.token_file import TokenFile
from lm_core.disk.files import write_whole
from lm_core.disk.untrusted import may_pass
from lm_core.errors import UnreadableError, UserError
from lm_pipeline.text.documents import Place
from lm_pipeline.text.flaws import Flaws
from lm_pipeline.text.inputs import InputFile
from lm_pipeline.tokens.job import Split

CONFIG_NAME = "make_data.toml"
_UNIT = r"\d{6,}(\.(train|validation)\.npy)?(\.json)?"
_OWN = re.compile(rf"\.?(job|{_UNIT})(\.[0-9a-f]{{16}})?(\.new)?")
_OF_STREAM = re.compile(rf"\.?(job|stream\.json|make_data\.toml|{_UNIT})(\.[0-9a-f]{{16}})?(\.new)?")
"""Names of files in this folder, including those that a killed process left half-written."""
_RECORD = re.compile(r"\d{6,}\.json")


class Progress(Config):
    """A place in the whole corpus: between two pieces."""

    file: int = Field(0, ge=0)
    """Number of the file."""
    offset: int = Field(0, ge=0)
    """The place in it, as in `Place`."""
    record: int = Field(0, ge=0)
    """The place in it, as in `Place`."""
    inside: bool = False
    """The place in it, as in `Place`."""
    state: str = ""
    """The place in it, as in `Place`."""
    documents: int = Field(0, ge=0)
    """Documents that have ended before."""
    split: Split | None = None
    """Split of the document that it is inside of."""

    @property
    def place(self) -> Place:
        """The place in the file."""
        return Place(self.offset, self.record, self.inside, self.state)


class FlawCount(Config):
    """Flaws of a file for one reason."""

    file: int = Field(ge=0)
    """Number of the file."""
    reason: str
    count: int = Field(ge=0)
    first: str
    """Position of the first one."""


class Unit(Config):
    """Metadata of a finished unit."""

    splits: tuple[Split, ...]
    """Splits that it has ids for."""
    after: Progress
    """Position of the next unit."""
    flaws: tuple[FlawCount, ...] = ()
    """Flaws on the way."""


class Parts:
    """The finished units of one job.

    Args:
        folder: where they are.
        job: fingerprint of the job.
        stay: whether they are shards, which stay and are not replaced by those of another job.
    """

    def __init__(self, folder: Path, job: str, *, stay: bool = False) -> None:
        self.folder, self.job, self.stay = folder, job, stay
        self.units: list[Unit] = []
        self._found: int | None = None
        """Units that were there already; None until the folder is this job's, and they are counted."""

    @property
    def progress(self) -> Progress:
        """End of the finished units."""
        return self.units[-1].after if self.units else Progress()

    def flaws(self, files: Sequence[InputFile]) -> Flaws:
        """Flaws in all of them."""
        flaws = Flaws()
        for flaw in (flaw for unit in self.units for flaw in unit.flaws):
            flaws.include(flaw.reason, str(files[flaw.file].path), flaw.count, flaw.first)
        return flaws

    def open(self) -> None:
        """Resume from the finished units of an earlier call of the same job, and remove what else a job left.

        Raises:
            UserError: when something lies there that no job wrote; with `stay`, that another job wrote.
        """
        self._refuse_others()
        mark = self.folder / JOB
        if not mark.is_file() or mark.read_bytes() != self.job.encode():
            if self.stay and any(re.fullmatch(rf"job|{_UNIT}", path.name) for path in self.folder.iterdir()):
                raise UserError(
                    f"{self.folder} holds shards of another config or other inputs: remove them, or give another output"
                )
            self.remove()
            self._found = 0
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(mark, self.job.encode())
        while unit := self._read(len(self.units)):
            self.units.append(unit)
        self._found = len(self.units)
        known = {
            JOB,
            COMPLETE,
            CONFIG_NAME,
            *(path.name for i, unit in enumerate(self.units) for path in self._files(i, unit)),
        }
        _unlink(path for path in self.folder.iterdir() if path.name not in known)

    def path(self, split: Split) -> Path:
        """The token file that the next unit writes for a split."""
        return shard_path(self.folder, len(self.units), split)

    def add(self, unit: Unit) -> None:
        """Record that the next unit's token files are whole."""
        write_whole(self._record(len(self.units)), unit.model_dump_json().encode())
        self.units.append(unit)

    def token_files(self, split: Split) -> Iterator[TokenFile]:
        """Token files of the units for a split, in order.

        Raises:
            UserError: when one is damaged.
        """
        for i, unit in enumerate(self.units):
            if split in unit.splits:
                yield self._open(i, split)

    def forget(self) -> None:
        """Remove what was written since they were opened: all, where there was no unit then."""
        if self._found is None:
            return
        if not self._found:
            self.remove()
        while len(self.units) > self._found:
            unit = self.units.pop()
            for path in self._files(len(self.units), unit):  # the record first, which says that the unit is whole
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove what a job wrote, and the folder unless something else lies in it."""
        if self.folder.is_symlink() or not self.folder.is_dir():
            return
        _unlink(path for path in self.folder.iterdir() if self._is_own(path))
        with suppress(OSError):
            if not self.stay:
                self.folder.rmdir()

    def _refuse_others(self) -> None:
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            raise UserError(f"{self.folder} was not made by make-data: move it away, or give another output")
        for path in self.folder.iterdir() if self.folder.exists() else ():
            if not self._is_own(path):
                raise UserError(f"{path} was not written by make-data: move it away, or give another output")

    def _read(self, number: int) -> Unit | None:
        """The unit of that number, if it is whole.

        Raises:
            UnreadableError: when it cannot be read just now; a unit that is not whole is removed.
        """
        record = self._record(number)
        try:
            unit = Unit.parse(json.loads(record.read_bytes()), str(record))
            for split in unit.splits:
                self._open(number, split)
        except UnreadableError:
            raise
        except OSError as error:
            if may_pass(error):
                raise UnreadableError(f"cannot read {record}: {error.strerror}; try again") from None
            return None
        except (ValueError, UserError):
            return None
        return unit

    def _open(self, number: int, split: Split) -> TokenFile:
        file = TokenFile.open(shard_path(self.folder, number, split))
        if file.metadata.source != self.job:
            raise UserError(f"{file.path} belongs to another job: remove {self.folder} and run again")
        return file

    def _record(self, number: int) -> Path:
        return record_path(self.folder, number)

    def _files(self, number: int, unit: Unit) -> Iterator[Path]:
        yield self._record(number)
        for split in unit.splits:
            path = shard_path(self.folder, number, split)
            yield from (path, path.with_name(path.name + ".json"))

    def _is_own(self, path: Path) -> bool:
        names = _OF_STREAM if self.stay else _OWN
        return bool(names.fullmatch(path.name)) and path.is_file() and not path.is_symlink()


def _unlink(paths: Iterable[Path]) -> None:
    """Remove files of a job, in an order in which a reader finds no record without its shards.

    The fingerprint of the job goes last, so that the job is resumed when this is killed.
    """
    for path in sorted(paths, key=_order):
        path.unlink()


def _order(path: Path) -> tuple[bool, bool, bool]:
    return path.name == JOB, path.name != COMPLETE, not _RECORD.fullmatch(path.name)
