"""A person's own text to train on: a file, a folder, or what every Python carries.

file, standard library  -> one document --cut at a character--> train, validation
folder                  -> documents    --each on one side----> train, validation
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_core.errors import UserError
from lm_core.terminal import show
from lm_pipeline.text.encodings import decoded
from lm_pipeline.text.flaws import counted
from lm_pipeline.text.one_file import read_plain, split, standard_library_text
from lm_pipeline.text.own_files import read_folder, split_documents


@dataclass(frozen=True)
class OwnText:
    """Documents, in two parts."""

    name: str
    """Description for the user."""
    train: tuple[str, ...]
    validation: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """Lines on what was skipped or guessed."""

    @property
    def sha1(self) -> str:
        """Hash of all documents, and of where each ends."""
        digest = hashlib.sha1()
        for document in (*self.train, "", *self.validation):
            data = document.encode("utf-8", "surrogatepass")
            digest.update(b"%d:" % len(data) + data)
        return digest.hexdigest()


def read_own_text(data_file: str, data_dir: str, include: Sequence[str] = (), held_out: float = 0.1) -> OwnText:
    """Read a file or a folder; with neither, the text that every Python carries.

    Args:
        data_file: of text; where it is not UTF-8, its encoding is guessed.
        data_dir: a folder, as `own_files.read_folder` reads it.
        include: patterns of more files of the folder.
        held_out: part that is for validation: of the documents of a folder, else of the characters, at the end.

    Raises:
        UserError: when there is nothing to train on, saying why.
    """
    if data_file and data_dir:
        raise UserError("data_file and data_dir contradict each other: give one of them")
    if include and not data_dir:
        raise UserError("include chooses among the files of data_dir, which is not given")
    if data_dir:
        return _of_folder(data_dir, include, held_out)
    if data_file:
        return _of_file(data_file, held_out)
    text = standard_library_text()
    note = f"no data given: training on {len(text):,} characters of this Python's standard library"
    return _cut("standard library", text, held_out, (note,))


def _of_folder(folder: str, include: Sequence[str], held_out: float) -> OwnText:
    found = read_folder(folder, include)
    name, notes = f"{show(folder)}, {counted(len(found.documents), 'document')}", tuple(found.lines())
    if len(found.documents) == 1:
        return _cut(name, found.documents[0].text, held_out, notes)
    train, validation = (tuple(d.text for d in part) for part in split_documents(found.documents, held_out))
    return OwnText(name, train, validation, notes)


def _of_file(file: str, held_out: float) -> OwnText:
    try:
        text, encoding = decoded(read_plain(file))
    except UnicodeError as error:
        raise UserError(f"text {show(file)} is {error}: convert it to UTF-8") from None
    if not text or text.isspace():
        raise UserError(f"text {show(file)} is empty")
    note = f"{show(file)} is not UTF-8: decoded as {encoding}, a guess"
    return _cut(Path(file).name, text, held_out, (note,) if encoding else ())


def _cut(name: str, text: str, held_out: float, notes: tuple[str, ...]) -> OwnText:
    train, validation = split(text, held_out)
    return OwnText(name, (train,), (validation,), notes)
