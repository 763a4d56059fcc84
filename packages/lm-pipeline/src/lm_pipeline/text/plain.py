"""Text files: one document, or as many as a separator makes, read in blocks."""

import re
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from lm_core.errors import UserError
from lm_pipeline.text.documents import REPLACED, BadRecord, Flaw, Piece, Place, Rules, valid_utf8

BLOCK = 1 << 20
"""Bytes read at a time, at most."""
MOST_HELD = 1 << 32
"""Bytes of a document that may have to be held at a time: what has more, and no place to cut it at, may never end."""
_MARK = b"\xef\xbb\xbf"


def read_text(file: BinaryIO, name: str, place: Place, rules: Rules) -> Iterator[Piece | Flaw]:
    """The documents of a file that stands at `place`. A byte-order mark at its beginning is dropped; so are empty ones.

    Raises:
        UserError: for what is not UTF-8, naming the byte.
        OSError: when it cannot be read.
    """
    size = min(BLOCK, rules.long) if rules.cut else BLOCK
    yield from _Scan(name, place, rules).pieces(iter(partial(file.read, size), b""))


class _Scan:
    """A window on the file: `held` are its bytes from `offset` on."""

    def __init__(self, name: str, place: Place, rules: Rules) -> None:
        self.name, self.rules = name, rules
        self.offset, self.record, self.inside = place.offset, place.record, place.inside
        self.held = bytearray()
        self.searched = 0  # no separator begins in this many bytes
        separator = rules.separator.replace(b"\r\n", b"\n")
        # A literal at the beginning makes `re` quick: a return before the first newline is looked for afterwards.
        pattern = re.escape(separator).replace(b"\\\n", b"\r?\n").removeprefix(b"\r?")
        self.separator = re.compile(pattern) if separator else None
        self.returns = separator.startswith(b"\n")
        self.longest = len(separator) + separator.count(b"\n")
        """Bytes of a separator, at most."""

    def pieces(self, blocks: Iterator[bytes]) -> Iterator[Piece | Flaw]:
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
                    yield from self._piece(safe, 0, ends=False)
                cut_from = self.rules.long if safe else 2 * len(self.held)
            if len(self.held) > MOST_HELD:
                raise UserError(
                    f"{self.name} has {len(self.held):,} bytes in one stretch from byte {self.offset:,} on, without a"
                    " place to cut them at: is it text? set a separator that it has"
                )
        if self.held or self.inside:
            yield from self._piece(len(self.held), 0, ends=True)

    def _whole_documents(self) -> Iterator[Piece | Flaw]:
        while self.separator:
            found = self.separator.search(self.held, self.searched)
            if not found:
                self.searched = max(0, len(self.held) - self.longest + 1)
                return
            start, end = found.span()
            del found  # it holds on to the bytes, which are about to be dropped
            start -= self.returns and self.held[max(0, start - 1) : start] == b"\r"
            size = end - start
            if start or self.inside:
                yield from self._piece(start, size, ends=True)
            else:
                self._drop(size)

    def _safe_end(self) -> int:
        """Position where the held bytes may be cut; a separator that they may hold the beginning of stays behind."""
        assert self.rules.cut
        return self.rules.cut(bytes(self.held[: self.searched] if self.separator else self.held))

    def _piece(self, size: int, separator: int, *, ends: bool) -> Iterator[Piece | Flaw]:
        held, begins, whole = bytes(self.held[:size]), self.offset, ends and not self.inside
        self._drop(size + separator)
        self.inside = not ends
        self.record += ends
        after = Place(self.offset, self.record, self.inside)
        try:
            data, replaced = valid_utf8(held, self.rules.errors, begins)
        except BadRecord as bad:
            if whole and self.rules.on_bad == "skip":
                yield Flaw(bad.reason, f"byte {begins:,}", after)
                return
            raise UserError(f"{self.name}{bad.said}") from None
        if replaced:
            yield Flaw(REPLACED, f"byte {begins:,}", after, replaced)
        yield Piece(data, ends, after)

    def _drop(self, size: int) -> None:
        del self.held[:size]
        self.offset += size
        self.searched = max(0, self.searched - size)
