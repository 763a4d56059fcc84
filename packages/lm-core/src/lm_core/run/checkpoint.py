"""Checkpoints that are either whole or not there.

    weights         -> <sha1>.safetensors   parameters alone, float32; the name is the SHA-1 of the file
    everything else -> <sha1>.metadata      optimizer state; step, configs and the rest as JSON

Each file is written beside as `.new`, flushed to disk and renamed, then the folder is flushed. The metadata goes last:
a checkpoint exists once that file does. What was written is read back and checked before anything older is removed. The
metadata carries a digest of its own content, so a flipped byte anywhere is noticed. Nothing is ever unpickled.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from lm_core.run.files import write_whole

Arrays = Mapping[str, NDArray[Any]]
_MALFORMED = (SafetensorError, ValueError, KeyError, TypeError, OverflowError)


class DamagedError(Exception):
    """A checkpoint that cannot be trusted; the message says why."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds."""

    path: Path
    weights: dict[str, NDArray[Any]]
    optimizer_state: dict[str, NDArray[Any]]
    facts: dict[str, Any]
    """The JSON part; `facts["step"]` is always there."""

    @property
    def step(self) -> int:
        """Number of steps taken."""
        return int(self.facts["step"])


def _digest(facts: str, arrays: Arrays) -> str:
    """SHA-1 over the JSON and over every array's name, type, shape and bytes."""
    digest = hashlib.sha1(facts.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


class Checkpoints:
    """The checkpoints of one run, in one folder."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = folder, keep

    def save(self, weights: Arrays, optimizer_state: Arrays, facts: Mapping[str, Any]) -> Path:
        """Write a checkpoint, prove it by reading it back, drop all but the newest `keep`; returns its metadata file.

        Raises:
            OSError: when it cannot be written; what was there before still is.
            DamagedError: when what was read back is not what was written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        data = save({name: np.asarray(array, order="C") for name, array in weights.items()})
        sha1 = hashlib.sha1(data).hexdigest()
        state = {name: np.asarray(array, order="C") for name, array in optimizer_state.items()}
        text = json.dumps({**facts, "weights": sha1}, sort_keys=True, allow_nan=False)
        path = self.folder / f"{sha1}.metadata"
        write_whole(path.with_suffix(".safetensors"), data)
        write_whole(path, save(state, {"facts": text, "digest": _digest(text, state)}))
        self.read(path)
        self._prune(path)
        return path

    def read(self, path: Path) -> Checkpoint:
        """Load and check the checkpoint of a metadata file.

        Raises:
            DamagedError: when a file is missing, malformed or not what its hash says.
        """
        try:
            facts, digest = _header(path)
            state = load(path.read_bytes())
            data = path.with_suffix(".safetensors").read_bytes()
            if _digest(facts, state) != digest:
                raise DamagedError(f"{path.name} is not what was written: its digest differs")
            named = json.loads(facts)
            sha1 = hashlib.sha1(data).hexdigest()
            if sha1 != named["weights"] or path.stem != sha1:
                raise DamagedError(f"{path.stem}.safetensors is not what was written: its SHA-1 differs")
            return Checkpoint(path, load(data), state, named)
        except OSError as error:
            raise DamagedError(f"{error.filename or path}: {error.strerror or error}") from None
        except _MALFORMED as error:
            raise DamagedError(f"{path.name} is malformed ({error})") from None

    def newest(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """The good checkpoint with the most steps; damaged ones are named through `warn` and skipped."""
        for path in self._by_step(warn):
            try:
                return self.read(path)
            except DamagedError as error:
                warn(f"checkpoint skipped: {error}")
        return None

    def _by_step(self, warn: Callable[[str], None]) -> Iterator[Path]:
        """The metadata files, most steps first, whatever the clock said when they were written."""
        steps: dict[Path, int] = {}
        for path in sorted(self.folder.glob("*.metadata")):
            try:
                steps[path] = int(json.loads(_header(path)[0])["step"])
            except (OSError, *_MALFORMED) as error:
                warn(f"checkpoint skipped: {path.name} is malformed ({error})")
        yield from sorted(steps, key=lambda path: steps[path], reverse=True)

    def _prune(self, saved: Path) -> None:
        """Remove all but `saved` and the `keep` - 1 before it, and what killed saves left behind.

        What claims to come after `saved` is damaged, or the run would have gone on from there.
        """
        by_step = list(self._by_step(lambda _: None))
        stems = {path.stem for path in by_step[by_step.index(saved) :][: self.keep]}
        for suffix in (".metadata", ".safetensors"):
            for path in self.folder.glob(f"*{suffix}"):
                if path.stem not in stems:
                    path.unlink()
        for path in self.folder.glob("*.new"):
            path.unlink()


def _header(path: Path) -> tuple[str, str]:
    """The JSON text and the digest in a metadata file's header, without reading its arrays."""
    with safe_open(path, "numpy") as file:
        header = file.metadata() or {}
    return header["facts"], header["digest"]
