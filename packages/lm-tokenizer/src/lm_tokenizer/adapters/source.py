"""The lines of a corpus, or texts of many lines, for the trainers that learn from them."""

import io
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path

from lm_tokenizer.corpus import files_in
from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.surrogates import as_unicode

Source = str | PathLike[str] | Iterable[str | Path]
LONGEST_PART = 1 << 20
"""Characters that a library is given at once: it takes many times their memory."""


def lines_of(source: Source) -> Iterator[str]:
    r"""Every line, with its `\n`, of a file, of the files in a folder, or of an iterable of texts and files (`Path`).

    Raises:
        TokenizerError: when a file is missing, cannot be read, or is not UTF-8.
    """
    for document in [Path(source)] if isinstance(source, str | PathLike) else source:
        if isinstance(document, str):
            yield from io.StringIO(as_unicode(document), newline="\n")
        else:
            for path in files_in(Path(document)):
                yield from _lines_of_file(path)


def parts_of(source: Source) -> Iterator[str]:
    """The texts of a corpus, as `lines_of` finds them: each whole, or in parts where it is long.

    What is learned from them may cross the end of a line: the end together with the indent that follows, in code.

    Raises:
        TokenizerError: as `lines_of`.
    """
    for document in [Path(source)] if isinstance(source, str | PathLike) else source:
        if isinstance(document, str):
            yield from parts(as_unicode(document))
        else:
            for path in files_in(Path(document)):
                yield from _parts_of_file(path)


def parts(text: str) -> Iterator[str]:
    """A text in parts of at most `LONGEST_PART` characters, which end with a line where one ends."""
    start, most = 0, LONGEST_PART
    while start < len(text):
        end = text.rfind("\n", start, start + most) + 1 if start + most < len(text) else len(text)
        end = end if end > start else start + most
        yield text[start:end]
        start = end


def _parts_of_file(path: Path) -> Iterator[str]:
    lines, size = list[str](), 0
    for line in _lines_of_file(path):
        if lines and size + len(line) > LONGEST_PART:
            yield from parts("".join(lines))
            lines, size = [], 0
        lines.append(line)
        size += len(line)
    yield from parts("".join(lines))


def _lines_of_file(path: Path) -> Iterator[str]:
    offset = 0
    try:
        with path.open("rb") as file:
            for line in file:
                yield line.decode()
                offset += len(line)
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: not UTF-8 at byte {offset + error.start}") from None
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read: {error.strerror}") from None
