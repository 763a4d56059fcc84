"""Safetensors files, one or in shards, of float32, float16 and bfloat16, read to float32 one tensor at a time.

    model.safetensors                  all tensors
    model.safetensors.index.json       or "weight_map": tensor -> file, and those files

The format: 8 bytes with the length of a JSON header, the header, the values (github.com/huggingface/safetensors).
`safetensors` checks a file's header and size; the values are read here, because numpy has no bfloat16 for it to give.
Files that would be unpickled are never opened.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from lm_core.errors import UserError
from lm_core.interchange.keys import read_object

FileDtype = Literal["float32", "bfloat16"]
"""Types in which weights are written."""

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_READ = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class Entry:
    """Location of a tensor."""

    path: Path
    name: str
    dtype: str
    """As safetensors calls it: F32, F16, BF16 and others."""
    shape: tuple[int, ...]
    offset: int
    """Offset of its first byte in the file."""

    def read(self) -> NDArray[np.float32]:
        """The values as float32, exactly.

        Raises:
            UserError: for a type that is not supported, a value that is not finite, a file that cannot be read.
        """
        if self.dtype not in _READ:
            known = "float32, float16 and bfloat16"
            raise UserError(f"{self.path}: tensor {self.name!r} is of type {self.dtype}, and {known} are supported")
        count = int(np.prod(self.shape))
        try:
            stored = np.fromfile(self.path, _READ[self.dtype], count, offset=self.offset)
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from None
        if len(stored) != count:
            raise UserError(f"{self.path} was cut while it was read, in tensor {self.name!r}")
        array = widened(stored) if self.dtype == "BF16" else stored.astype(np.float32)
        if not np.isfinite(array).all():
            raise UserError(f"{self.path}: tensor {self.name!r} holds values that are not finite")
        return array.reshape(self.shape)


Entries = dict[str, Entry]


def widened(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Bfloat16 to float32: its 16 bits are the upper half of a float32's."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrowed(array: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Finite float32 to bfloat16, to the nearest, ties to the even one."""
    bits = np.ascontiguousarray(array).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def find_tensors(folder: Path) -> Entries:
    """Every tensor of a model, by name; `model.safetensors` goes before an index, as in `transformers`.

    Raises:
        UserError: when there are none, or a file is missing, cut or malformed.
    """
    if (folder / WHOLE).exists():
        return entries_of(folder / WHOLE)
    if (folder / INDEX).exists():
        return _of_shards(folder / INDEX)
    for pickle in sorted(path for pattern in _PICKLES for path in folder.glob(pattern)):
        raise UserError(
            f"{pickle} is a pickle, which can run any code when it is loaded, and is not read: convert it to {WHOLE}"
            " with transformers' save_pretrained"
        )
    raise UserError(f"{folder} holds no model: there is no {WHOLE} and no {INDEX}")


def entries_of(path: Path) -> Entries:
    """Every tensor of one safetensors file.

    Raises:
        UserError: when the file is missing, cut or malformed.
    """
    try:
        with safe_open(path, "numpy"):  # checks the header, and that the tensors fill the file
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (SafetensorError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is cut or not a safetensors file: {error}") from None
    header.pop("__metadata__", None)
    return {
        name: Entry(path, name, said["dtype"], tuple(said["shape"]), 8 + length + said["data_offsets"][0])
        for name, said in header.items()
    }


def _of_shards(index: Path) -> Entries:
    """The tensors that an index lists, each in the file it says."""
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise UserError(f"{index} has no object `weight_map`")
    shards: dict[str, Entries] = {}
    entries: Entries = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file:  # never a path out of the folder
            raise UserError(f"{index}: tensor {name!r} is listed in {file!r}, which is not a file name")
        if file not in shards:
            shards[file] = entries_of(index.parent / file)
        if name not in shards[file]:
            raise UserError(f"{index.parent / file} lacks tensor {name!r}, which {index.name} says is there")
        entries[name] = shards[file][name]
    return entries


def safetensors_bytes(arrays: Mapping[str, NDArray[np.float32]], dtype: FileDtype) -> bytes:
    """A safetensors file of these arrays, with the mark that `transformers` asks for."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts: list[bytes] = []
    end = 0
    for name, array in arrays.items():
        part = (narrowed(array).astype("<u2") if dtype == "bfloat16" else array.astype("<f4")).tobytes()
        code = "BF16" if dtype == "bfloat16" else "F32"
        header[name] = {"dtype": code, "shape": array.shape, "data_offsets": (end, end + len(part))}
        parts.append(part)
        end += len(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # values begin at a multiple of 8
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])
