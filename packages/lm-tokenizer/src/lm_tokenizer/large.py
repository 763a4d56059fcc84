"""Large inputs: special tokens are found, what lies between them goes to the kernels, and their ids are put in.

texts --utf8--> bytes --special tokens--> stretches --engine--> ids --insert--> ids of each text
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from lm_tokenizer.engine import Engine, NotUTF8Error
from lm_tokenizer.errors import SpecialTokenError, for_each
from lm_tokenizer.special import Choice, Found, SpecialTokens
from lm_tokenizer.surrogates import place_in, utf8
from lm_tokenizer.words import decoded

if TYPE_CHECKING:
    from lm_tokenizer.tokenizer import Text


def encode_large(
    engine: Engine,
    special: SpecialTokens,
    texts: "Sequence[Text]",
    threads: int,
    allowed: Choice,
    disallowed: Choice,
    errors: Literal["strict", "replace"],
) -> tuple[np.ndarray, np.ndarray]:
    """The ids of all texts behind one another, and how many each has, int64. Arguments and errors as `encode_batch`."""
    data = for_each(texts, lambda text: text if isinstance(text, bytes) else utf8(text, errors))
    try:
        found = special.find_in_all(data, allowed, disallowed)
    except SpecialTokenError as error:
        i = error.text
        given = texts[i]
        if isinstance(given, bytes):
            raise
        position = place_in(given, len(data[i][: error.position].decode()))
        raise SpecialTokenError(error.token, position, text=i, of_texts=len(texts)) from None
    stretches, specials = _between(data, found) if any(found) else (data, None)
    try:
        ids, counts = engine.encode(stretches, threads)
    except NotUTF8Error:
        data = for_each(data, lambda text: decoded(text, errors).encode())
        return encode_large(engine, special, data, threads, allowed, disallowed, errors)
    if specials is None:
        return ids, counts
    # Each stretch but the last of a text is followed by a special token.
    where = np.flatnonzero(specials >= 0)
    ids = np.insert(ids, np.cumsum(counts)[where], specials[where].astype(ids.dtype))
    counts[where] += 1
    owners = np.repeat(np.arange(len(texts)), [len(places) + 1 for places in found])
    return ids, np.bincount(owners, counts, len(texts)).astype(np.int64)


def _between(texts: Sequence[bytes], found: Sequence[Sequence[Found]]) -> tuple[list[bytes | memoryview], np.ndarray]:
    """The stretches of texts between special tokens, and the id of the special token behind each, or -1."""
    stretches: list[bytes | memoryview] = []
    behind: list[int] = []
    for text, places in zip(texts, found, strict=True):
        at, view = 0, memoryview(text)
        for start, end, token_id in places:
            stretches.append(view[at:start])
            behind.append(token_id)
            at = end
        stretches.append(view[at:] if at else text)
        behind.append(-1)
    return stretches, np.array(behind, np.int64)
