"""Files that somebody made to do harm: in a run folder in place of a checkpoint, a log, a config, a lock, or of the
file that the next save is going to write.

Each kind takes a `Place` and a generator, and returns what it put there.
"""

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Draw = np.random.Generator


@dataclass(frozen=True)
class Place:
    """Where a forgery goes."""

    folder: Path
    """The run folder."""
    newest: str
    """Name of its newest checkpoint."""
    following: str
    """Name of the checkpoint that the run will save next."""
    outside: Path
    """A file that must not be touched."""
    marker: Path
    """A file that foreign code would make."""

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"


class Evil:
    """Object that runs a command when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def disguised(place: Place, draw: Draw) -> list[Path]:
    """A pickle, torch's zip of one, an npy or npz of objects, under the names of a checkpoint."""
    pickled = pickle.dumps(Evil(place.marker), protocol=int(draw.integers(0, 6)))
    objects = io.BytesIO()
    np.save(objects, np.array([Evil(place.marker)], dtype=object), allow_pickle=True)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("weights.npy", objects.getvalue())
        archive.writestr("../../escaped", b"escaped")
    content = [pickled, objects.getvalue(), zipped.getvalue()][int(draw.integers(3))]
    return _put(place, draw, content)


def offsets(place: Place, draw: Draw) -> list[Path]:
    """Safetensors whose offsets, shapes or types lie."""
    lies: list[dict[str, Any]] = [
        {"a": _array([0, 64]), "b": _array([32, 96])},
        {"a": _array([0, 1 << 62])},
        {"a": _array([-64, 0])},
        {"a": _array([64, 0])},
        {"a": _array([0, 64], shape=[1 << 40, 1 << 40])},
        {"a": _array([0, 64], shape=[-16])},
        {"a": _array([0, 64], shape=[1 << 63, 2])},
        {"a": _array([0, 64], dtype="F1")},
        {"a": _array([0, 64], dtype="object")},
        {"a": _array([0.0, 64.5])},
        {"a": _array([1 << 70, 1 << 71])},
        {"../../../escaped": _array([0, 64]), "/etc/escaped": _array([64, 128])},
        {"a": {"dtype": "F32"}},
        {"a": "F32"},
        {"__metadata__": {"facts": {"step": 99}, "digest": 1}},
        {"__metadata__": {"facts": '{"step": 99}', "digest": "0"}, "a": _array([0, 64])},
    ]
    return _put(place, draw, _safetensors(json.dumps(lies[int(draw.integers(len(lies)))]).encode(), bytes(128)))


def header_lengths(place: Place, draw: Draw) -> list[Path]:
    """A header that says it is longer or shorter than it is."""
    header = json.dumps({"a": _array([0, 64])}).encode()
    length = [0, 1, 7, len(header) - 1, 1 << 20, 100_000_001, 1 << 31, 1 << 63, (1 << 64) - 1][int(draw.integers(9))]
    return _put(place, draw, length.to_bytes(8, "little") + header + bytes(64))


def json_bombs(place: Place, draw: Draw) -> list[Path]:
    """JSON that is deep, huge, or has keys twice, as the header or as the facts in it."""
    depth = int(draw.integers(1_000, 200_000))
    header = json.dumps(_array([0, 64])).encode()
    bombs: list[Callable[[], bytes]] = [
        lambda: b'{"a":' * depth + b"1" + b"}" * depth,
        lambda: b'{"__metadata__":{"facts":"' + b"[" * depth + b"]" * depth + b'","digest":"0"}}',
        lambda: b'{"__metadata__":{"facts":"{\\"step\\":' + b"9" * depth + b'}","digest":"0"}}',
        lambda: b'{"a":' + header + b',"a":' + header + b"}",
        lambda: b'{"__metadata__":{"facts":"{}","facts":"{}","digest":"0"},"__metadata__":{}}',
        lambda: b" " * 50_000_000 + b"{}",
        lambda: json.dumps({f"a{i}": _array([0, 0], shape=[0]) for i in range(100_000)}).encode(),
        lambda: b"\xff\xfe{}",
    ]  # made when drawn: some take a second
    return _put(place, draw, _safetensors(bombs[int(draw.integers(len(bombs)))](), bytes(64)))


def facts(place: Place, draw: Draw) -> list[Path]:
    """Headers that can be read, with metadata that is not any; the digest is never right."""
    values = ["NaN", "Infinity", "-Infinity", "1e400", '"5"', "[]", "null", "true", "-1", "{}", str(10**400), "99"]
    step, loss = (values[int(i)] for i in draw.integers(len(values), size=2))
    text = [f'{{"step": {step}, "val_loss": {loss}, "weights": "../../x"}}', "[]", "null", '"step"', "1", "{"]
    header = {"__metadata__": {"facts": text[int(draw.choice(6, p=[0.7, *[0.06] * 5]))], "digest": "0" * 40}}
    return _put(place, draw, _safetensors(json.dumps(header).encode(), b""))


def logs(place: Place, draw: Draw) -> list[Path]:
    """A log whose first line is deep, long, no table, or of a step that is none."""
    depth = int(draw.integers(1_000, 200_000))
    lines = [
        b'{"a":' * depth,
        b'{"step":' + b"9" * depth + b"}",
        b"[" * depth + b"]" * depth,
        b'{"kind": "train", "step": -1e400}',
        b'{"kind": "train", "step": 1, "loss_nats": NaN, "loss_nats": Infinity}',
        b"\xff\xfe\x00" * depth,
        b"x" * 100_000_000,
    ]
    path = place.folder / "metrics.jsonl"
    path.write_bytes(lines[int(draw.integers(len(lines)))] + b"\n")
    return [path]


def links(place: Place, draw: Draw) -> list[Path]:
    """Symbolic links to a file outside, to nothing, to themselves, and to devices."""
    path = _target(place, draw)
    goal = [place.outside, place.outside.with_name("nothing"), path, Path("/dev/zero"), Path("/dev/null")]
    path.unlink(missing_ok=True)
    path.symlink_to(goal[int(draw.choice(5, p=[0.6, 0.1, 0.1, 0.1, 0.1]))])
    return [path]


def hard_links(place: Place, draw: Draw) -> list[Path]:
    """A file outside under a second name, so that whoever writes into it in place writes there."""
    path = _target(place, draw)
    path.unlink(missing_ok=True)
    os.link(place.outside, path)
    return [path]


def linked_folders(place: Place, draw: Draw) -> list[Path]:
    """A folder of the run that is a link to one outside."""
    path = place.folder / ("tokenizer", "tensorboard", "wandb")[int(draw.integers(3))]
    shutil.rmtree(path, ignore_errors=True)
    path.symlink_to(place.folder.parent)
    return [path]


def pipes(place: Place, draw: Draw) -> list[Path]:
    """A pipe that nobody writes into: who opens it waits for ever."""
    path = _target(place, draw)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return [path]


def folders(place: Place, draw: Draw) -> list[Path]:
    """A folder, with something in it, under a file's name."""
    path = _target(place, draw)
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "inside").write_bytes(b"inside")
    return [path]


def sparse(place: Place, draw: Draw) -> list[Path]:
    """A terabyte of nothing, which takes no room."""
    path = _target(place, draw)
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(1 << int(draw.integers(36, 41)))
    return [path]


KINDS: tuple[Callable[[Place, Draw], list[Path]], ...] = (
    disguised,
    offsets,
    header_lengths,
    json_bombs,
    facts,
    logs,
    links,
    pipes,
    folders,
    sparse,
    hard_links,
    linked_folders,
)


def _array(data_offsets: list[Any], shape: list[int] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [16] if shape is None else shape, "data_offsets": data_offsets}


def _safetensors(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def _put(place: Place, draw: Draw, content: bytes) -> list[Path]:
    """In place of a file of the newest checkpoint, or as a checkpoint of its own."""
    name = place.newest if draw.random() < 0.5 else "f" * 40
    paths = [place.checkpoints / f"{name}.metadata", place.checkpoints / f"{name}.safetensors"]
    chosen = [paths, paths[:1], paths[1:]][int(draw.integers(3))]
    for path in chosen:
        path.write_bytes(content)
    return chosen


def _target(place: Place, draw: Draw) -> Path:
    """Something that a resumed run reads or writes."""
    of_checkpoint = [f"checkpoints/{name}{end}" for name in (place.newest, "f" * 40) for end in SUFFIXES]
    to_come = [f"checkpoints/{place.following}{end}{new}" for end in SUFFIXES for new in ("", ".new")]
    of_run = ["metrics.jsonl", "metrics.jsonl.new", "config.toml", "config.toml.new", "lock"]
    names = [*of_checkpoint, *to_come, *of_run]
    return place.folder / names[int(draw.integers(len(names)))]


SUFFIXES = (".metadata", ".safetensors")
