"""The folder of one run: where its files are, and by which version of the layout."""

import re
from pathlib import Path

from lm_core.errors import UserError
from lm_core.regular import check_inside, read_regular
from lm_core.run.files import checkpoint_files, make_folder, write_whole
from lm_core.run.lock import Lock

FORMAT = 1
"""Version of the layout of a run folder, which the first line of config.toml names; it grows when an older program
would misread a newer folder. Folders from before there were versions are of the first."""
_FIRST_LINE = "# run folder, format {}\n"
_STATED = re.compile(rb"# run folder, format (\d{1,9})\b")
_LARGEST_CONFIG = 1 << 20
_SUBFOLDERS = ("checkpoints", "tokenizer", "tensorboard", "wandb")


class RunFolder:
    """The files of one run.

    config.toml  metrics.jsonl  checkpoints/  samples.txt  report.html  lock
    """

    def __init__(self, path: Path):
        self.path = path
        self.config, self.metrics = path / "config.toml", path / "metrics.jsonl"
        self.checkpoints, self.samples = path / "checkpoints", path / "samples.txt"

    def holds_run(self) -> bool:
        """Whether a run has begun here."""
        return self.config.exists() or self.has_checkpoint()

    def has_checkpoint(self) -> bool:
        """Whether anything has been saved here, whole or not."""
        return bool(checkpoint_files(self.checkpoints, ".metadata"))

    def hold(self) -> Lock:
        """The folder as this process's alone, for as long as the context lasts; made where it is missing."""
        return Lock(self.path)

    def check_format(self) -> None:
        """Refuse a folder of a newer version; called before anything else is made of its files.

        Raises:
            UserError: naming the version.
        """
        try:
            found = _STATED.match(read_regular(self.config, _LARGEST_CONFIG))
        except OSError:
            return  # whoever needs the config says what is wrong with it
        if found and int(found[1]) > FORMAT:
            raise UserError(
                f"{self.path} is a run folder of format {int(found[1])}, made by a newer version of this project; this"
                f" version reads formats up to {FORMAT}: update it"
            )

    def prepare(self, config_toml: str) -> None:
        """Make the folder and write the config.

        Raises:
            UserError: when it cannot be written to, or a link in it leads out of it.
        """
        try:
            make_folder(self.path)
            for name in _SUBFOLDERS:
                check_inside(self.path / name, self.path)
            write_whole(self.config, _FIRST_LINE.format(FORMAT).encode() + config_toml.encode())
        except OSError as error:
            raise UserError(f"cannot write to save_dir {self.path}: {error.strerror}") from None
