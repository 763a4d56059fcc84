"""A JSON list: each item is an object, one field of which is a document. Read item by item, in bounded memory.

Where an item ends is known without parsing it: at a comma or bracket that is in no string and no inner bracket.
"""

import re
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from lm_core.errors import UserError
from lm_pipeline.text.documents import Flaw, Piece, Place, Rules
from lm_pipeline.text.records import from_json, taken

BLOCK = 1 << 20
"""Bytes read at a time."""
_SPACE = b" \t\r\n"
_QUOTE = ord('"')
_STRING_END = rb'(?:[^"\\]+|\\.)*+"'
_OUTSIDE = re.compile(rb'"' + _STRING_END + rb'|["\[\]{},]', re.DOTALL)
"""A whole string, where a block has it, or a mark."""
_INSIDE = re.compile(_STRING_END, re.DOTALL)
_DEPTH = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def read_json_list(file: BinaryIO, name: str, place: Place, rules: Rules) -> Iterator[Piece | Flaw]:
    """The documents of a file that stands at `place`; empty ones are dropped.

    Raises:
        UserError: for an item that is not such an object, naming it; for a list that does not end.
        OSError: when the file cannot be read.
    """
    items = _Items(file, name, place.offset, rules.max_record_bytes)
    if place.offset == 0:
        items.begin()
    number = place.record
    for data, size, begins, after in items:
        number += 1
        make = partial(from_json, data, size, begins, rules)
        yield from taken(make, name, f"item {number}", Place(after, number), rules)


class _Items:
    """(bytes, their number, first byte, byte after the comma) of each item; of a long one only the first bytes."""

    def __init__(self, file: BinaryIO, name: str, offset: int, most: int) -> None:
        self.file, self.name, self.offset, self.most = file, name, offset, most
        self.block, self.at = b"", 0

    def begin(self) -> None:
        """Go behind the bracket that opens the list, and a byte-order mark."""
        while self._more():
            start = self.block[self.at :].removeprefix(b"\xef\xbb\xbf").lstrip(_SPACE)
            if start:
                if start[:1] != b"[":
                    raise UserError(f"{self.name} is not a JSON list")
                self.offset += len(self.block) - self.at - len(start) + 1
                self.at = len(self.block) - len(start) + 1
                return
            self.offset, self.at = self.offset + len(self.block) - self.at, len(self.block)
        raise UserError(f"{self.name} is not a JSON list: it is empty")

    def __iter__(self) -> Iterator[tuple[bytes, int, int, int]]:
        end = b","
        while end == b",":
            begins = self.offset
            held, size, end = self._item()
            lead = len(held) - len(held.lstrip(_SPACE))
            item = held.strip(_SPACE)
            if item or end == b",":
                yield item, size if size > self.most else len(item), begins + lead, self.offset
        self._go_to(self.at + 1)
        self._check_end()

    def _item(self) -> tuple[bytes, int, bytes]:
        """Its bytes, of which no more than so many are held, their number, and what ends it: a comma is passed."""
        held, size, depth, in_string = bytearray(), 0, 0, False
        while self._more():
            stop, depth, in_string, end = self._scan(depth, in_string)
            held += self.block[self.at : min(stop, self.at + max(0, self.most + 1 - len(held)))]
            size += stop - self.at
            self._go_to(stop + (end == b","))
            if end:
                return bytes(held), size, end
        raise UserError(f"{self.name} is truncated: its list does not end")

    def _scan(self, depth: int, in_string: bool) -> tuple[int, int, bool, bytes]:
        """End of the item or, before it, of the block; the depth there, whether in a string; what ends the item."""
        at = self.at
        while found := _INSIDE.match(self.block, at) if in_string else _OUTSIDE.search(self.block, at):
            start, at = found.span()
            mark = self.block[start]
            if in_string:
                in_string = False
            elif mark == _QUOTE:
                in_string = at - start == 1
            elif depth == 0 and mark in b",]":
                return start, depth, in_string, bytes((mark,))
            else:
                depth += _DEPTH.get(mark, 0)
        return len(self.block), depth, in_string, b""

    def _go_to(self, stop: int) -> None:
        self.offset += stop - self.at
        self.at = stop

    def _more(self) -> bool:
        """Whether there is another byte, which is read if need be."""
        if self.at == len(self.block):
            self.block, self.at = self.file.read(BLOCK), 0
            if (len(self.block) - len(self.block.rstrip(b"\\"))) % 2:  # the last one escapes the next byte
                self.block += self.file.read(1)
        return self.at < len(self.block)

    def _check_end(self) -> None:
        while self._more():
            if self.block[self.at :].strip(_SPACE):
                raise UserError(
                    f"{self.name} continues after the list ends, at byte {self.offset:,}: is it JSON lines?"
                )
            self._go_to(len(self.block))
