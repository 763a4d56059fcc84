"""Row: flipped bits, cuts, swapped, missing and empty files, in the newest checkpoint and in a token file.

Token files are hurt while they are open, too, and replaced in half.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from lm_bench.faults.bench import Bench
from lm_bench.faults.row import Row
from lm_bench.faults.trial import VOCABULARY, tokens
from lm_core.data.batches import windows
from lm_core.data.token_file import HEADER_BYTES, TokenFile, check_pair, sidecar_of
from lm_core.errors import UserError
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.folder import RunFolder
from lm_tokenizer.token_file import TokenFileWriter

SUFFIXES = (".safetensors", ".metadata")


def flipped_and_cut(bench: Bench, row: Row) -> None:
    """Damage is found when the file is read, it is named, and the checkpoint before is taken."""
    victims = _Victims(bench)
    draw = bench.draw("damage")
    paths = victims.paths
    shares = np.array([path.stat().st_size for path in paths], dtype=float) ** 0.5  # small files get their part too
    for i in range(bench.count(2000, 60)):
        path = paths[int(draw.choice(len(paths), p=shares / shares.sum()))]
        bit = int(draw.integers(path.stat().st_size * 8))
        victims.check(row, path, _flipped(path.read_bytes(), bit), f"bit {bit} of {path.name} flipped (trial {i})")
    for i in range(bench.count(200, 20)):
        path = paths[i % len(paths)]
        length = 0 if i < len(paths) else int(draw.integers(path.stat().st_size))
        victims.check(row, path, path.read_bytes()[:length], f"{path.name} cut to {length} bytes (trial {i})")
    for path in paths:
        victims.check(row, path, None, f"{path.name} missing")
        victims.check(row, path, path.read_bytes() + b"\0", f"{path.name} with a byte too many")
        victims.check(row, path, bytes(path.stat().st_size), f"{path.name} all zeros")
        for other in paths:
            if other != path:
                victims.check(row, path, other.read_bytes(), f"{path.name} with the content of {other.name}")
    _hurt_while_open(bench, row)
    _replaced_in_half(bench, row)
    _run_on_damaged(bench, row)


def _flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


class _Victims:
    """A folder of two checkpoints and a token file, of which one file at a time is damaged and mended."""

    def __init__(self, bench: Bench):
        trial = bench.begun("damage")
        self.checkpoints = Checkpoints(RunFolder(Path(trial.folder)).checkpoints)
        by_step = {self.checkpoints.read(path).step: path for path in self.checkpoints.folder.glob("*.metadata")}
        self.previous, self.newest = (by_step[step] for step in sorted(by_step))
        self.token_file = bench.folder / "tokens.npy"
        _written(self.token_file, 5000)
        self.of_checkpoint = [self.newest.with_suffix(suffix) for suffix in SUFFIXES]
        self.of_tokens = [self.token_file, sidecar_of(self.token_file)]

    @property
    def paths(self) -> list[Path]:
        return [*self.of_checkpoint, *self.of_tokens]

    def check(self, row: Row, path: Path, content: bytes | None, what: str) -> None:
        good = path.read_bytes()
        if content == good:
            return
        if path.suffix == ".json" and content and content.strip() == good.strip():
            return  # the line end after the JSON says nothing
        row.trials += 1
        try:
            path.unlink()
            if content is not None:
                path.write_bytes(content)
            complaint = self._complaint(path)
        except Exception as error:
            complaint = f"{type(error).__name__} escapes: {error}"
        finally:
            path.write_bytes(good)
        if complaint:
            row.violations.append(f"--only damage: {what}: {complaint}")

    def _complaint(self, path: Path) -> str:
        """What is wrong with how the damage of a file is met; empty when nothing is."""
        if path in self.of_tokens:
            try:
                TokenFile.open(self.token_file)
            except UserError as error:
                return "" if self.token_file.name in str(error) else f"not named: {error}"
            return "not found"
        said: list[str] = []
        found = self.checkpoints.newest(said.append)
        if found is None or found.path != self.previous:
            return f"step {found.step if found else None} was taken"
        # A checkpoint is its metadata file: without it there is none, and nobody is misled.
        if not path.exists() and path.suffix == ".metadata":
            return ""
        return "" if any(self.newest.stem in line for line in said) else f"not named: {said}"


def _hurt_while_open(bench: Bench, row: Row) -> None:
    """What is overwritten in place, or cut, ends the next read with a line: no wrong id comes out of it, no SIGBUS."""
    for i in range(bench.count(100, 6)):
        draw, path = bench.draw("open", i), bench.folder / "open.npy"
        _written(path, 5000)
        os.utime(path, ns=(0, 0))  # the clock of a file system is coarse, and a real file is older than its reader
        ids = TokenFile.open(path).tokens
        position = int(draw.integers(HEADER_BYTES, path.stat().st_size))
        if i % 2:
            os.truncate(path, position)
        else:
            with path.open("r+b") as file:
                file.seek(position)
                file.write(bytes([path.read_bytes()[position] ^ 1 << int(draw.integers(8))]))
        first = min((position - HEADER_BYTES) // ids.dtype.itemsize, len(ids) - 16)
        row.trials += 1
        _must_refuse(
            row, path, partial(windows, ids, np.array([first]), 15), f"{path.name} hurt while open (trial {i})"
        )


def _replaced_in_half(bench: Bench, row: Row) -> None:
    """Two token files of one folder, of which one is of an earlier making."""
    paths = [bench.folder / f"{split}.npy" for split in ("train", "validation")]
    for late in (0, 1):
        for path in paths:
            _written(path, 100, pair="before")
        _written(paths[late], 100, pair="after")
        train, validation = map(TokenFile.open, paths)
        row.trials += 1
        _must_refuse(row, paths[late], partial(check_pair, train, validation), f"only {paths[late].name} replaced")


def _written(path: Path, count: int, pair: str = "") -> None:
    with TokenFileWriter(path, np.uint16, vocab_size=VOCABULARY, fingerprint="some", pair=pair) as file:
        file.write(tokens(count), text_bytes=count, documents=1)


def _must_refuse(row: Row, path: Path, read: Callable[[], object], what: str) -> None:
    try:
        read()
        complaint = "not found"
    except UserError as error:
        complaint = "" if path.name in str(error) else f"not named: {error}"
    except Exception as error:
        complaint = f"{type(error).__name__} escapes: {error}"
    if complaint:
        row.violations.append(f"--only damage: {what}: {complaint}")


def _run_on_damaged(bench: Bench, row: Row) -> None:
    """The same before the first step of a run: it says which file, takes the checkpoint before, and ends as ever."""
    for i in range(bench.count(20, 1)):
        draw = bench.draw("damaged run", i)
        trial = bench.begun(f"damaged-{i}")
        newest = Checkpoints(RunFolder(Path(trial.folder)).checkpoints).newest(lambda _: None)
        assert newest is not None
        path = newest.path.with_suffix(SUFFIXES[i % 2])
        path.write_bytes(_flipped(path.read_bytes(), int(draw.integers(path.stat().st_size * 8))))
        what = f"--only damage --seed {bench.seed}: run {i} of step {newest.step} with a damaged {path.suffix}"
        row.trials += 1
        bench.resume(row, trial, what, said=(newest.path.stem, f"at step {newest.step - trial.save_every} of"))
