"""Reading and writing files so that what goes wrong is one line that names the file."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lm_tokenizer.errors import TokenizerError


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have errors about the content of a file say which file."""
    try:
        yield
    except TokenizerError as error:
        raise error if str(path) in str(error) else TokenizerError(f"{path}: {error}") from None


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        TokenizerError: when it is missing, a folder, or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise TokenizerError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise TokenizerError(f"{path}: this is a folder, where a file is wanted") from None
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read: {error.strerror}") from None


def read_text(path: Path) -> str:
    """The content of a UTF-8 file, without a byte-order mark.

    Raises:
        TokenizerError: also when it is not UTF-8, naming the byte.
    """
    data = read_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: not UTF-8 at byte {error.start}: is this the right file?") from None


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        TokenizerError: also when it is not JSON, naming line and column.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise TokenizerError(f"{path}: not JSON at {place}: {error.msg}; was the file cut short?") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets thousands deep
        raise TokenizerError(f"{path}: not JSON that can be read: {error}") from None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that, whatever happens, it has its old content or its new one; its folder is made.

    Raises:
        TokenizerError: when it cannot be written; nothing is left behind then.
    """
    beside = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)  # a full disk wants the room back
            raise
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be written: {error.strerror}") from None
