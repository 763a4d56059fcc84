"""The lines of a corpus, for the trainers that learn from lines."""

import io
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path

from lm_tokenizer.corpus import files_in
from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.surrogates import as_unicode

Source = str | PathLike[str] | Iterable[str | Path]


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
