"""Named arrays in the safetensors layout, without a copy of their bytes.

    8 bytes: length of the header | the header, JSON padded with spaces | the bytes of every array

`safetensors.numpy.save` gives the same as one block of memory, which for a large model is a second one of its size, and
holds Python's lock while it is filled. What is made here goes to a hash and to a file as it lies in the arrays, and
both let other threads run.
Source: https://github.com/huggingface/safetensors, "Format".
"""

import json
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lm_core.disk.files import Buffer

Arrays = Mapping[str, NDArray[Any]]
_KINDS = {"f": "F", "i": "I", "u": "U"}
_LONGEST_HEADER = 100_000_000
"""Bytes; the package `safetensors` has the same limit."""


def contiguous(arrays: Arrays) -> dict[str, NDArray[Any]]:
    """The arrays in C order and little-endian, those that are so already as they are."""
    return {name: np.asarray(a, a.dtype.newbyteorder("<"), order="C") for name, a in arrays.items()}


def bytes_of(array: NDArray[Any]) -> memoryview:
    """The bytes of a contiguous array, where they lie."""
    return array.reshape(-1).view(np.uint8).data


def safetensors_parts(arrays: Arrays, metadata: Mapping[str, str] | None = None) -> list[Buffer]:
    """Parts of a safetensors file of contiguous arrays, in the order of the file."""
    # Wider types first, so that each array is aligned.
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        array, start = arrays[name], end
        end += array.nbytes
        header[name] = {"dtype": _type_name(array.dtype), "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little") + text, *(bytes_of(arrays[name]) for name in names)]


def read_header(file: BinaryIO) -> dict[str, Any]:
    """The header of a safetensors file that is just as long as it says, without reading the arrays.

    The package's own `safe_open` calls every error of the system a missing file, which would make a passing one damage.

    Raises:
        OSError: when the file cannot be read.
        ValueError, TypeError, LookupError, AttributeError, RecursionError: when it is not such a file.
    """
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= min(size - 8, _LONGEST_HEADER):
        raise ValueError("its header does not fit the file")
    header: dict[str, Any] = json.loads(file.read(length).decode())
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if max(ends, default=0) != size - 8 - length:
        raise ValueError("its arrays do not fit the file")
    return header


def _type_name(dtype: np.dtype[Any]) -> str:
    return "BOOL" if dtype.kind == "b" else f"{_KINDS[dtype.kind]}{8 * dtype.itemsize}"
