"""Text to train on: a UTF-8 file, or the prose and sources that every Python carries.

file or standard library -> str -> (train, validation): the last part of the text is held out
"""

import os
import sysconfig
from functools import lru_cache
from pathlib import Path

from lm_core.disk.untrusted import open_regular
from lm_core.errors import UserError
from lm_pipeline.text.formats import HEAD, check_plain

STANDARD_LIBRARY_CHARACTERS = 5_000_000
MOST_BYTES = 1 << 32
"""A larger text, which is held in memory several times, is refused."""


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file (a byte-order mark is dropped).

    Raises:
        UserError: when `read_plain` does, or it is empty or not UTF-8, naming the byte.
    """
    data = read_plain(path)
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        cut = error.start >= len(data) - 3 and "unexpected end" in error.reason
        why = "it is cut inside a character at its end" if cut else f"byte {error.start} is not valid UTF-8"
        raise UserError(f"text {path} is not UTF-8: {why}; convert it, for example with iconv -t UTF-8") from None
    if not text:
        raise UserError(f"text {path} is empty")
    return text


def read_plain(path: str | Path) -> bytes:
    """The bytes of a file of plain text.

    Raises:
        UserError: when it is missing, a pipe or device, too large, or of another format by its name or first bytes.
    """
    try:
        with open_regular(Path(path)) as file:  # a resumed run reads it again, which no pipe allows
            size = os.fstat(file.fileno()).st_size
            if size > MOST_BYTES:
                raise UserError(
                    f"text {path} has {size:,} bytes, and at most {MOST_BYTES:,} are read: give a part of it"
                )
            data = file.read()
    except OSError as error:
        raise UserError(f"cannot read text {path}: {error.strerror}") from None
    check_plain(f"text {path}", str(path), data[:HEAD])
    return data


@lru_cache(maxsize=1)
def standard_library_text(limit: int = STANDARD_LIBRARY_CHARACTERS) -> str:
    """The first `limit` characters of this Python's own documentation topics and top-level modules.

    The order is fixed: the language reference's topics, the licence, then modules by name, then packages by name.
    Characters beyond ASCII are dropped, which keeps the vocabulary below 100; tests are left out.
    """
    root = Path(sysconfig.get_path("stdlib"))
    prose = [root / "pydoc_data" / "topics.py", root / "LICENSE.txt"]
    skipped = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "pydoc_data", "__pycache__"}
    modules = sorted(root.glob("*.py"))
    packages = (path for folder in sorted(root.iterdir()) if folder.is_dir() for path in sorted(folder.rglob("*.py")))
    parts: list[str] = []
    total = 0
    for path in (*prose, *modules, *packages):
        if total >= limit:
            break
        if skipped.intersection(path.relative_to(root).parts[:-1]) and path not in prose:
            continue
        if path.name.startswith("_sysconfigdata") or path.name in ("sitecustomize.py", "usercustomize.py"):
            continue  # these describe one machine, not Python
        try:
            part = path.read_bytes().decode("ascii", errors="ignore")
        except OSError:
            continue
        parts.append(part)
        total += len(part)
    if not parts:
        raise UserError("this Python carries no readable standard library to train on; give a text with --text")
    return "".join(parts)[:limit]


def split(text: str, val_frac: float) -> tuple[str, str]:
    """(train, validation): the last `val_frac` of the characters is held out."""
    cut = len(text) - int(len(text) * val_frac)
    return text[:cut], text[cut:]
