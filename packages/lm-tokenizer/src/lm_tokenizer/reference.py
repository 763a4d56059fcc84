"""Byte-level BPE as it is defined, to be read first; everything fast in this package is tested against it.

Train (Sennrich et al. 2016, algorithm 1, on bytes): count the pretokens of the text, then until the vocabulary is full,
merge the most frequent pair of neighbouring tokens everywhere. Of pairs that are equally frequent the one with the
smaller ids is merged first, as in Hugging Face's trainer, or the one with the greater bytes.

Encode: cut the text into pretokens, write each as bytes, and apply the merges in the order in which they were learned.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

from lm_tokenizer.pretokenize import splitter
from lm_tokenizer.surrogates import as_unicode
from lm_tokenizer.vocab import BYTE_ORDER, Vocabulary

Pair = tuple[int, int]
TieBreak = Literal["huggingface", "bytes"]


def pairs_of(ids: Sequence[int]) -> list[Pair]:
    """The pairs of neighbours, from left to right."""
    return list(pairwise(ids))


def merge(ids: Sequence[int], pair: Pair, merged: int) -> list[int]:
    """`ids` with every occurrence of `pair`, from left to right, replaced by `merged`."""
    out: list[int] = []
    i = 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            out.append(merged)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def train(
    texts: Iterable[str],
    vocab_size: int,
    pattern: str = "gpt2",
    min_frequency: int = 0,
    max_token_length: int | None = None,
    tie_break: TieBreak = "huggingface",
) -> Vocabulary:
    """Learn a vocabulary of at most `vocab_size` tokens, the 256 bytes among them, from separate texts.

    Args:
        texts: of the corpus.
        vocab_size: the most tokens there may be.
        pattern: that cuts texts into pretokens.
        min_frequency: a pair that occurs less often is not merged.
        max_token_length: in bytes; tokens of this length or longer are not made, but for pairs of bytes. That is how
            Hugging Face's trainer counts.
        tie_break: which of several equally frequent pairs is merged first. "huggingface": the one with the smaller left
            id, of these the one with the smaller right id. "bytes": the one whose left token, of these the one whose
            right token, is the greater as a byte string. The latter does not depend on the ids that bytes have, and is
            the rule of subword-nmt (Sennrich et al.) and of the trainers in courses.
    """
    split = splitter(pattern)
    counts = Counter(pretoken.encode() for text in texts for pretoken in split(as_unicode(text)))
    tokens = [bytes([byte]) for byte in BYTE_ORDER]
    id_of = {token: i for i, token in enumerate(tokens)}
    words = {pretoken: [id_of[bytes([byte])] for byte in pretoken] for pretoken in counts}
    merges: list[Pair] = []

    def may_merge(pair: Pair) -> bool:
        length = len(tokens[pair[0]]) + len(tokens[pair[1]])
        return frequency[pair] >= min_frequency and (
            max_token_length is None or length < max_token_length or length == 2
        )

    while len(tokens) < vocab_size:
        frequency: Counter[Pair] = Counter()
        for pretoken, ids in words.items():
            for pair in pairs_of(ids):
                frequency[pair] += counts[pretoken]
        candidates = list(filter(may_merge, frequency))
        if not candidates:
            break
        if tie_break == "bytes":
            best = max(candidates, key=lambda pair: (frequency[pair], tokens[pair[0]], tokens[pair[1]]))
        else:
            best = min(candidates, key=lambda pair: (-frequency[pair], pair))
        token = tokens[best[0]] + tokens[best[1]]
        merges.append(best)
        if token not in id_of:  # two merges may make the same token; the second adds none
            id_of[token] = len(tokens)
            tokens.append(token)
        words = {pretoken: merge(ids, best, id_of[token]) for pretoken, ids in words.items()}
    return Vocabulary(tokens, merges, {}, pattern)


def parts_of_tokens(tokens: Sequence[bytes], n_bytes: int) -> list[Pair]:
    """The places of the two tokens that each is made from, in a vocabulary in which every merge has its token's rank.

    Args:
        tokens: by rank, but the single bytes first.
        n_bytes: how many these are.

    Returns:
        Of each token after the bytes; up to the first that merging its bytes by lower ranks does not bring down to two.
    """
    made = {token: place for place, token in enumerate(tokens[:n_bytes])}
    parts: list[Pair] = []

    def stay_apart(left: int, right: int) -> bool:
        """Whether merging the bytes of both by lower ranks gives these two, and no merge reaches from one to the other.

        Their own merges are undone, the last one first: the tokens that then meet must not have been merged before it.
        """
        while left >= n_bytes or right >= n_bytes:
            if left > right:  # of equal ranks the left one is merged first
                limit, left = left, parts[left - n_bytes][1]
            else:
                limit, right = right + 1, parts[right - n_bytes][0]
            if made.get(tokens[left] + tokens[right], limit) < limit:
                return False
        return True

    for place, token in enumerate(tokens[n_bytes:], n_bytes):
        for i in range(1, len(token)):
            right = made.get(token[i:])
            if right is not None and (left := made.get(token[:i])) is not None and stay_apart(left, right):
                break
        else:
            break
        made[token] = place
        parts.append((left, right))
    return parts


def encoding_steps(pretoken: bytes, vocabulary: Vocabulary) -> Iterator[list[int]]:
    """The ids of one pretoken: those of its bytes, and of what each merge leaves.

    While any merge applies, the one of the lowest rank is applied, leftmost first.
    """
    ids = [vocabulary.id_of_bytes[bytes([byte])] for byte in pretoken]
    yield ids[:]
    ranks, merged = vocabulary.ranks, vocabulary.merged_ids
    while found := [(ranks[pair], i) for i, pair in enumerate(pairs_of(ids)) if pair in ranks]:
        rank, i = min(found)
        ids[i : i + 2] = [merged[rank]]
        yield ids[:]


def encode_pretoken(pretoken: bytes, vocabulary: Vocabulary) -> list[int]:
    """The ids of one pretoken, once no merge applies."""
    *_, ids = encoding_steps(pretoken, vocabulary)
    return ids


def encode(text: str, vocabulary: Vocabulary) -> list[int]:
    """The ids of a text without special tokens."""
    return [
        i
        for pretoken in splitter(vocabulary.pattern)(as_unicode(text))
        for i in encode_pretoken(pretoken.encode(), vocabulary)
    ]


def decode_bytes(ids: Iterable[int], vocabulary: Vocabulary) -> bytes:
    """The bytes that the ids stand for."""
    return b"".join(vocabulary.tokens[i] for i in ids)
