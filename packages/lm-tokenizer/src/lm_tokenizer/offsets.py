"""Positions of the tokens of a text in it: offsets of bytes from their lengths, and of characters from those.

    ids --lengths--> bytes --which character each byte is of--> characters

A token may begin or end inside a character. Its offsets in characters are then those of all characters that it has a
byte of, as in Hugging Face's `tokenizers`: three tokens of one character have the same offsets.
"""

import numpy as np

from lm_tokenizer.surrogates import joined


def byte_offsets(lengths: np.ndarray) -> np.ndarray:
    """Start and end of tokens of these lengths in bytes, int64 (n, 2)."""
    ends = np.cumsum(lengths)
    return np.stack([ends - lengths, ends], axis=1)


def character_offsets(offsets: np.ndarray, text: str) -> np.ndarray:
    """Start and end in characters of a text, int64 (n, 2), of offsets in the bytes of its UTF-8.

    In a text with surrogate pairs, each of the pair is a character, as it is to Python.
    """
    if text.isascii():
        return offsets
    whole = joined(text)
    data = np.frombuffer(whole.encode(), np.uint8)
    character = np.cumsum((data & 0xC0) != 0x80) - 1  # of each byte
    starts = character[offsets[:, 0]]
    last = character[offsets[:, 1] - 1]
    if whole is text:
        return np.stack([starts, last + 1], axis=1)
    places = _places(whole, text)
    return np.stack([places[starts], places[last + 1]], axis=1)


def _places(whole: str, text: str) -> np.ndarray:
    """Position of each character of `whole` in `text`, in which some are surrogate pairs; at last, where it ends."""
    places = [0]
    for character in whole:
        places.append(places[-1] + (1 if text[places[-1]] == character else 2))
    return np.array(places, np.int64)
