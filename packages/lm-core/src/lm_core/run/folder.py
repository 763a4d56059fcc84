"""The folder of one run: where its files are."""

from pathlib import Path

from lm_core.errors import UserError
from lm_core.run.files import make_folder, write_whole
from lm_core.run.lock import Lock


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
        return self.config.exists() or any(self.checkpoints.glob("*.metadata"))

    def hold(self) -> Lock:
        """The folder as this process's alone, for as long as the context lasts; made where it is missing."""
        return Lock(self.path)

    def prepare(self, config_toml: str) -> None:
        """Make the folder and write the config.

        Raises:
            UserError: when it cannot be written to.
        """
        try:
            make_folder(self.path)
            write_whole(self.config, config_toml.encode())
        except OSError as error:
            raise UserError(f"cannot write to save_dir {self.path}: {error.strerror}") from None
