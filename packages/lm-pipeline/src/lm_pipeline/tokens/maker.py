"""make-data as a child process: shards are written while the process that reads them trains.

    with making_data(MakeDataConfig(..., shards=True)) as maker:
        maker.keep()
        session.run(...)    # batches wait for shards that are not there yet

The child ends with the block, and with the parent's process, however that ends. What it has finished stays, and the
next block resumes it; but a mistake in the text takes away what this block has made, unless `keep` was called. Its
messages go to standard error, but for the line of a mistake, which is the parent's too; it has no progress bar. Ctrl-C
reaches the parent alone, which ends the child when its own work is saved.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

from lm_core.data.shards import is_stream, is_written
from lm_core.errors import UserError
from lm_core.terminal import say
from lm_pipeline.tokens.config import MakeDataConfig

_ERROR = "transformerlm-make-data: error: "
_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 10.0
"""Time that a child has to end before it is killed, which costs no more than the unit in hand."""


@dataclass(frozen=True)
class Maker:
    """The child."""

    process: subprocess.Popen[bytes]

    def keep(self) -> None:
        """Leave what is finished even after a mistake in the text: a run stands on it."""
        assert self.process.stdin
        with suppress(BrokenPipeError):  # it has ended
            self.process.stdin.write(b"k")
            self.process.stdin.flush()


@contextmanager
def making_data(config: MakeDataConfig) -> Iterator[Maker]:
    """Run make-data beside the block, which begins when its folder can be opened.

    Raises:
        UserError: when it does not write shards, or ends with an error before the block begins; and its mistake in
            place of the block's, which may have waited for it in vain.
    """
    if not config.shards:
        raise UserError("shards: set it to true to train on what make-data writes meanwhile")
    with TemporaryDirectory(prefix="make-data-") as folder:
        path = Path(folder) / "config.toml"
        path.write_text(config.resolved())
        command = [sys.executable, "-m", "lm_pipeline.commands.make_data_child", "--config", str(path)]
        quiet = {**os.environ, "TQDM_DISABLE": "1"}
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=quiet,
            start_new_session=True,
        )
        mistakes: list[str] = []
        teller = Thread(target=_tell, args=(child, mistakes), daemon=True)
        teller.start()
        try:
            _await_start(child, Path(config.output))
            yield Maker(child)
        except UserError:
            output = Path(config.output)
            if not (child.poll() is None and is_stream(output) and is_written(output)):  # it has ended, or is about to
                with suppress(subprocess.TimeoutExpired):
                    child.wait(_PATIENCE_SECONDS)
                teller.join(_PATIENCE_SECONDS)
            if mistakes:
                raise UserError(mistakes.pop()) from None
            raise
        finally:
            _end(child)
            teller.join(_PATIENCE_SECONDS)
            for line in mistakes:  # of shards that the block has done without
                say(f"warning: {line}")


def _tell(child: subprocess.Popen[bytes], mistakes: list[str]) -> None:
    """Pass on what the child says, and keep the line of a mistake."""
    assert child.stderr
    with child.stderr:
        for data in child.stderr:
            line = data.decode(errors="replace").rstrip("\n")
            if line.startswith(_ERROR):
                mistakes.append(line.removeprefix(_ERROR))
            else:
                say(line)


def _await_start(child: subprocess.Popen[bytes], output: Path) -> None:
    """Wait until there is a writer, without which a reader of a stream that is not complete gives up."""
    while (code := child.poll()) is None and not (is_stream(output) and is_written(output)):
        time.sleep(_POLL_SECONDS)
    if code:
        raise UserError(f"make-data ended at once, with exit code {code}: its message is above")


def _end(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin
    with suppress(BrokenPipeError):
        child.stdin.close()
    try:
        child.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
