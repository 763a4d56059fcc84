"""The folder of one run: where its files are, and by which version of the layout."""

import contextlib
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from lm_core.config import Config, read_toml
from lm_core.disk.files import checkpoint_files, make_folder, write_whole
from lm_core.disk.lock import Lock
from lm_core.disk.untrusted import check_inside, read_regular
from lm_core.errors import UserError
from lm_core.file_names import toml_bytes
from lm_core.terminal import say

FORMAT = 2
"""Version of the layout of a run folder, which the first line of config.toml names; it grows when an older program
would misread a newer folder. Folders from before there were versions are of the first."""
_FIRST_LINE = "# run folder, format {}\n"
_STATED = re.compile(rb"# run folder, format (\d{1,9})\b")
_LARGEST_CONFIG = 1 << 20
_MOST_OF_A_NAME = 10_000
SUBFOLDERS = ("checkpoints", "tokenizer", "tensorboard", "wandb")
WRITTEN = ("metrics.jsonl", "samples.txt", "report.html", "result.json")
"""Files of a run besides its config."""
C = TypeVar("C", bound=Config)


def upgraded(config: dict[str, Any], written: int) -> dict[str, Any]:
    """The tables of a run's config of an older format, under the keys of this one.

    2: clipping is part of the optimizer (before: of the step).
    """
    step = config.get("step")
    if written < 2 and isinstance(step, dict) and "grad_clip" in step:
        rest = {key: value for key, value in step.items() if key != "grad_clip"}
        return {**config, "step": rest, "optimizer": {**config.get("optimizer", {}), "grad_clip": step["grad_clip"]}}
    return config


class RunFolder:
    """The files of one run.

    config.toml  tokenizer/  metrics.jsonl  checkpoints/  samples.txt  report.html  result.json  lock
    """

    def __init__(self, path: Path, made: Sequence[Path] = ()):
        self.path, self.made = path, made
        self.config, self.metrics = path / "config.toml", path / "metrics.jsonl"
        self.checkpoints, self.tokenizer = path / "checkpoints", path / "tokenizer"
        self.samples, self.result = path / "samples.txt", path / "result.json"

    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return _is_there(self.config) or self.has_checkpoint()

    def has_checkpoint(self) -> bool:
        """Whether anything has been saved here, whole or not.

        Raises:
            UserError: when the folder cannot be read just now.
        """
        try:
            return bool(checkpoint_files(self.checkpoints, ".metadata"))
        except OSError as error:
            raise UserError(f"{self.checkpoints} cannot be read: {error.strerror or error}; try again") from None

    def hold(self) -> Lock:
        """The folder as this process's alone, for as long as the context lasts; made where it is missing."""
        return Lock(self.path, self.made)

    def check_new(self) -> None:
        """Refuse a folder in which a new run would overwrite something.

        Raises:
            UserError: naming it.
        """
        if self.holds_run():
            raise UserError(f"{self.path} already holds a run: resume it with --resume, or give another --save_dir")
        for name in WRITTEN:
            if _is_there(self.path / name):
                raise UserError(
                    f"{self.path} already has a {name}, which a run would overwrite: give another --save_dir"
                )

    def check_links(self) -> None:
        """Refuse a folder that a run would leave by a link; called before anything is written to a folder in it.

        Raises:
            OSError: naming the link.
        """
        for name in SUBFOLDERS:
            check_inside(self.path / name, self.path)

    def check_format(self) -> None:
        """Refuse a folder of a newer version; called before anything else is made of its files.

        Raises:
            UserError: naming the version.
        """
        stated = self._stated_format()
        if stated > FORMAT:
            raise UserError(
                f"{self.path} is a run folder of format {stated}, made by a newer version of this project; this"
                f" version reads formats up to {FORMAT}: update it"
            )

    def read_config(self, cls: type[C]) -> C:
        """The run's config, of this format or an older one.

        Raises:
            UserError: when it is missing, malformed, not one of the app, or of a newer format.
        """
        return cls.parse(self.config_tables(), str(self.config))

    def config_tables(self) -> dict[str, Any]:
        """The tables of config.toml, under the keys of this format.

        Raises:
            UserError: when it is missing, malformed, or of a newer format.
        """
        self.check_format()
        return upgraded(read_toml(self.config), self._stated_format())

    def _stated_format(self) -> int:
        """Format that config.toml names; 1 if it names none or cannot be read, which its reader reports."""
        try:
            found = _STATED.match(read_regular(self.config, _LARGEST_CONFIG))
        except OSError:
            return 1
        return int(found[1]) if found else 1

    def prepare(self, config_toml: str) -> None:
        """Make the folder and write the config.

        Raises:
            UserError: when it cannot be written to, or a link in it leads out of it.
        """
        try:
            make_folder(self.path)
            self.check_links()
            write_whole(self.config, toml_bytes(_FIRST_LINE.format(FORMAT) + config_toml))
        except OSError as error:
            raise UserError(f"cannot write to save_dir {self.path}: {error.strerror}") from None


def new_run(root: Path, name: str) -> RunFolder:
    """A new folder under `root`: `name`, or `name-2`, `name-3` and so on where that is taken.

    Of several processes that want the same name at the same moment each gets a folder of its own. It is taken away
    again when `hold` ends and nothing was written.

    Raises:
        UserError: when it cannot be made.
    """
    try:
        made = make_folder(root)
        for number in range(1, _MOST_OF_A_NAME):
            path = root / (name if number == 1 else f"{name}-{number}")
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return RunFolder(path, [path, *made])
    except OSError as error:
        raise UserError(f"cannot write to {root}: {error.strerror}") from None
    raise UserError(f"{root} has {_MOST_OF_A_NAME:,} runs named {name}: give another name")


def newest_run(root: Path, key: str, advice: str = "name a folder") -> RunFolder:
    """The run under `root` that was started last, of those that have saved anything; else of all.

    What is newer and has saved nothing, as a run that failed to start, is reported.

    Args:
        root: folder of the runs.
        key: that asks for it, which an error names.
        advice: what to do where there is none.

    Raises:
        UserError: when there is none.
    """
    places = {path.parent for name in ("config.toml", "checkpoints") for path in root.glob(f"*/{name}")}
    runs = sorted((run for path in places if (run := RunFolder(path)).holds_run()), key=_started, reverse=True)
    if not runs:
        raise UserError(f"{key}: there is no run under {root}: {advice}")
    found = next((run for run in runs if run.has_checkpoint()), runs[0])
    for run in runs[: runs.index(found)]:
        say(f"note: {run.path} is newer and has no checkpoint: skipped, using {found.path}")
    return found


def run_folder(save_dir: str, root: Path, *, resume: bool, name: str = "") -> RunFolder:
    """The folder of a run: the one given, the newest under `root` to resume, or one under `root` of a name.

    Args:
        save_dir: the one given; "" for none.
        root: folder of the runs.
        resume: whether a run is resumed.
        name: of the run; "" makes a new one, named by the time.

    Raises:
        UserError: when there is none to resume, or it cannot be made.
    """
    if save_dir:
        return RunFolder(Path(save_dir))
    if resume:
        return newest_run(root, "--resume", "name one with --save_dir")
    return RunFolder(root / name) if name else new_run(root, datetime.now().strftime("%Y%m%d-%H%M%S"))


def _started(run: RunFolder) -> float:
    for path in (run.config, run.checkpoints):  # a config is a copy for people, who may take it away
        with contextlib.suppress(OSError):
            return path.stat().st_mtime
    return 0.0


def _is_there(path: Path) -> bool:
    """Whether there is anything of that name; an error that does not tell is raised.

    Raises:
        UserError: when that is not known.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:  # a NUL in the name
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return True
