"""Text files: one document, or as many as a separator makes, read in blocks."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from transformerlm.corpus.pieces import Piece, Place, Rules, valid_utf8

BLOCK = 1 << 20
"""Bytes read at a time, at most."""
_MARK = b"\xef\xbb\xbf"


def read_text(path: Path, place: Place, rules: Rules) -> Iterator[Piece]:
    """The documents of a file from `place` on. A byte-order mark at its beginning is dropped; so are empty documents.

    Raises:
        UserError: for what is not UTF-8, naming the byte.
        OSError: when it cannot be read.
    """
    with path.open("rb") as file:
        file.seek(place.offset)
        size = min(BLOCK, rules.long) if rules.cut else BLOCK
        yield from _Scan(path, place, rules).pieces(iter(partial(file.read, size), b""))


class _Scan:
    """A window on the file: `held` are its bytes from `offset` on."""

    def __init__(self, path: Path, place: Place, rules: Rules) -> None:
        self.path, self.rules = path, rules
        self.offset, self.record, self.inside = place.offset, place.record, place.inside
        self.held = bytearray()
        self.searched = 0  # no separator begins in this many bytes

    def pieces(self, blocks: Iterator[bytes]) -> Iterator[Piece]:
        """The pieces of the blocks that follow one another."""
        cut_from = self.rules.long
        for block in blocks:
            self.held += block
            if self.offset == 0 and self.held.startswith(_MARK):
                self._drop(len(_MARK))
            yield from self._whole_documents()
            if self.rules.cut and len(self.held) >= cut_from:
                safe = self._safe_end()
                if safe:
                    yield self._piece(safe, 0, ends=False)
                cut_from = self.rules.long if safe else 2 * len(self.held)
        if self.held or self.inside:
            yield self._piece(len(self.held), 0, ends=True)

    def _whole_documents(self) -> Iterator[Piece]:
        separator = self.rules.separator
        while separator:
            found = self.held.find(separator, self.searched)
            if found < 0:
                self.searched = max(0, len(self.held) - len(separator) + 1)
                return
            if found or self.inside:
                yield self._piece(found, len(separator), ends=True)
            else:
                self._drop(len(separator))

    def _safe_end(self) -> int:
        """Where the held bytes may be cut; a separator that they may hold the beginning of stays behind."""
        assert self.rules.cut
        return self.rules.cut(bytes(self.held[: self.searched] if self.rules.separator else self.held))

    def _piece(self, size: int, separator: int, *, ends: bool) -> Piece:
        data = valid_utf8(bytes(self.held[:size]), self.rules.errors, str(self.path), self.offset)
        self._drop(size + separator)
        self.inside = not ends
        self.record += ends
        return Piece(data, ends, Place(self.offset, self.record, self.inside))

    def _drop(self, size: int) -> None:
        del self.held[:size]
        self.offset += size
        self.searched = max(0, self.searched - size)
