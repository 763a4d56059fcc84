"""The readable path: the pretokens of a small text, each merged once and remembered."""

import heapq
from itertools import pairwise

from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.pretokenize import splitter
from lm_tokenizer.vocab import Vocabulary

LONGEST_REMEMBERED = 256
"""Characters of the longest pretoken that is remembered."""
MOST_REMEMBERED = 1 << 16
LONGEST = 1 << 12
"""Characters of the longest pretoken that is merged here: the kernels take a thousandth of the time."""


class LongPretokenError(Exception):
    """A text has a pretoken that is better left to the kernels."""


class Words:
    """Encodes small texts without special tokens, in Python, with a bounded memory of pretokens."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._split = splitter(vocabulary.pattern)
        self._known: dict[str, list[int]] = {}
        self.longest = LONGEST

    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        Raises:
            UnicodeEncodeError: when the text holds a surrogate, lone or of a pair.
            LongPretokenError: when a pretoken is longer than LONGEST.
        """
        known = self._known
        ids: list[int] = []
        for pretoken in self._split(text):
            try:
                ids += known[pretoken]
            except KeyError:
                ids += self._encode_new(pretoken)
        return ids

    def _encode_new(self, pretoken: str) -> list[int]:
        if len(pretoken) > self.longest:
            raise LongPretokenError
        ids = encode_pretoken(pretoken.encode(), self._vocabulary)
        if len(pretoken) <= LONGEST_REMEMBERED:
            if len(self._known) >= MOST_REMEMBERED:
                self._known = {}
            self._known[pretoken] = ids
        return ids


def decoded(text: bytes, errors: str = "strict") -> str:
    """The text that UTF-8 bytes say.

    Raises:
        TokenizerError: for bytes that are not UTF-8, with their offset; with errors="replace" they are U+FFFD.
    """
    try:
        return text.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"byte {error.start} (0x{text[error.start]:02x}) is not UTF-8: {error.reason}; "
            'repair the text, or pass errors="replace" to read it as U+FFFD'
        ) from None


def encode_pretoken(pretoken: bytes, vocabulary: Vocabulary) -> list[int]:
    """As `reference.encode_pretoken`, in n log n steps: pairs wait in a heap, tokens are linked to their neighbours."""
    ids = [vocabulary.id_of_byte[byte] for byte in pretoken]
    if len(ids) < 2:
        return ids
    ranks, merged = vocabulary.ranks, vocabulary.merged_ids
    before, after = list(range(-1, len(ids) - 1)), list(range(1, len(ids) + 1))
    gone = -1
    heap = [(ranks[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in ranks]
    heapq.heapify(heap)
    while heap:
        rank, i = heapq.heappop(heap)
        j = after[i]
        if ids[i] == gone or j == len(ids) or ranks.get((ids[i], ids[j])) != rank:
            continue  # one of the two has been merged since
        ids[i], ids[j] = merged[rank], gone
        after[i] = after[j]
        if after[i] < len(ids):
            before[after[i]] = i
        for left in (before[i], i):
            if left >= 0 and after[left] < len(ids):
                new = ranks.get((ids[left], ids[after[left]]))
                if new is not None:
                    heapq.heappush(heap, (new, left))
    return [i for i in ids if i != gone]
