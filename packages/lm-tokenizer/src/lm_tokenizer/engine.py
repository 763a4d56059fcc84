"""Large inputs: compiled kernels over chunks of text, in threads, with one cache of pretokens.

    text --cut--> chunks of about 1 MB --threads--> ids of each chunk --> one array

Nothing here takes a lock: the cache's slots are claimed atomically, and a cache that has become too small is replaced
by a larger one, which other threads take up with their next chunk. So threads may share an engine, and a process may
fork at any time.
"""

import string
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lm_tokenizer._kernels import cache as caches
from lm_tokenizer._kernels import decode, encode, merge
from lm_tokenizer._kernels.cache import PROBES, SLOT, Cache
from lm_tokenizer._kernels.encode import OUT_SLACK, SCRATCH_BYTES, Scratch
from lm_tokenizer._kernels.merge import Model
from lm_tokenizer._kernels.pretoken import CL100K, GPT2, LLAMA3, O200K, QWEN2
from lm_tokenizer._kernels.scan import BOTH, INVALID, LOWER, MARK, NO_CHARACTER, NUMBER, OTHER, UPPER, WHITE
from lm_tokenizer.boundaries import safe_ends
from lm_tokenizer.crossings import crossings
from lm_tokenizer.pretokenize import byte_ends, end_finder, name_of, shadow_table
from lm_tokenizer.vocab import Vocabulary
from lm_tokenizer.words import Words

CHUNK = 1 << 20
"""Bytes of text that a thread encodes at a time."""
FIRST_SLOTS, MOST_SLOTS = 1 << 16, 1 << 21
FIRST_ARENA, MOST_ARENA = 1 << 20, 1 << 26
"""Slots and bytes of the cache: at most MOST_SLOTS * SLOT + MOST_ARENA, 128 MB. When that is full, it is emptied."""
PATTERN_NUMBERS = {"gpt2": GPT2, "cl100k": CL100K, "llama3": LLAMA3, "o200k": O200K, "qwen2": QWEN2}
"""The published patterns by the numbers that the kernels know; under another one, Python splits."""
Chunk = tuple[np.ndarray, np.ndarray]
"""Bytes of texts that lie behind one another, and the offset where each ends."""
Arrays = tuple[np.ndarray, ...]
Buffer = bytes | memoryview


def aligned(n_bytes: int) -> np.ndarray:
    """Zeroed uint64, `n_bytes` of them or a little more, that begin at a multiple of 64 bytes."""
    array = np.zeros(n_bytes // 8 + 8, np.uint64)
    return array[-(array.ctypes.data // 8) % 8 :]


def class_table() -> np.ndarray:
    """Code point -> class, as `_kernels.scan` names them."""
    of_character = np.full(256, OTHER, np.uint8)
    for kind, characters in (
        (UPPER, string.ascii_uppercase + "À"), (LOWER, string.ascii_lowercase + "àß"), (BOTH, "ª"), (MARK, "¨"),
        (NUMBER, string.digits + "¼"), (WHITE, " \t\n\v\f\r\x85"),
    ):  # fmt: skip
        of_character[list(characters.encode("latin-1"))] = kind
    table = of_character[np.frombuffer(shadow_table().encode("latin-1"), np.uint8)]
    table[0xD800:0xE000] = NO_CHARACTER
    return table


class NotUTF8Error(Exception):
    """A text is not UTF-8."""

    def __init__(self, text: bytes) -> None:
        self.text = text


class UnknownIdError(Exception):
    """An id is not a token."""

    def __init__(self, position: int) -> None:
        self.position = position


class _Lane:
    """The ids that one thread has found, of some of the chunks."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids, self.used = ids, 0
        self.counts: dict[int, np.ndarray] = {}

    def encode(self, engine: "Engine", i: int, chunk: Chunk) -> None:
        """Append the ids of chunk `i`."""
        self.counts[i] = engine.encode_into(chunk, self.ids[self.used :])
        self.used += int(self.counts[i].sum())

    def copy_to(self, ids: np.ndarray, ends: np.ndarray) -> None:
        """Copy them to their places: those of chunk i end at ends[i]."""
        at = 0
        for i, counts in self.counts.items():
            n = int(counts.sum())
            ids[ends[i] - n : ends[i]] = self.ids[at : at + n]
            at += n


class Engine:
    """Encodes and decodes with the kernels."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        pattern = vocabulary.pattern
        self._ends = None if name_of(pattern) in PATTERN_NUMBERS else end_finder(pattern)
        self.wide = len(vocabulary.tokens) > 1 << 16
        self._model, self._model_arrays = _model(vocabulary)
        self._cache, self._cache_arrays = _new_cache(FIRST_SLOTS, FIRST_ARENA)
        self._idle: list[tuple[Scratch, Arrays]] = []
        self._decoder: Arrays | None = None

    @property
    def dtype(self) -> type[np.uint16] | type[np.uint32]:
        """Type of the ids in arrays."""
        return np.uint32 if self.wide else np.uint16

    def encode(self, texts: Sequence[Buffer], threads: int) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all texts behind one another, each encoded by itself, and the number of ids of each, int64.

        Raises:
            NotUTF8Error: for a text that is not.
        """
        chunks, owners = _chunks(texts, self._vocabulary.pattern)
        ids, counts = self._encode_chunks(chunks, min(threads, len(chunks)))
        return ids, np.bincount(owners, counts, len(texts)).astype(np.int64)

    def _encode_chunks(self, chunks: Sequence[Chunk], threads: int) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all chunks behind one another, and how many each of their texts has."""
        room = sum(len(text) for text, _ in chunks) + OUT_SLACK
        if threads <= 1:
            lane = _Lane(np.empty(room, self.dtype))
            for i, chunk in enumerate(chunks):
                lane.encode(self, i, chunk)
            lane.ids.resize(lane.used, refcheck=False)  # in place: what lies behind has never been touched
            return lane.ids, np.concatenate([np.zeros(0, np.int64), *lane.counts.values()])
        todo = iter(range(len(chunks)))

        def work(_: int) -> _Lane:
            # As long as all ids, if one thread should do all of it; memory is taken where it is written.
            lane = _Lane(np.empty(room, self.dtype))
            for i in todo:
                lane.encode(self, i, chunks[i])
            return lane

        with ThreadPoolExecutor(threads) as pool:
            lanes = list(pool.map(work, range(threads)))
            counts = {i: found for lane in lanes for i, found in lane.counts.items()}
            in_order = [counts[i] for i in range(len(chunks))]
            ends = np.cumsum([found.sum() for found in in_order])
            ids = np.empty(int(ends[-1]), self.dtype)
            list(pool.map(lambda lane: lane.copy_to(ids, ends), lanes))
        return ids, np.concatenate(in_order)

    def encode_into(self, chunk: Chunk, ids: np.ndarray) -> np.ndarray:
        """Write the ids of a chunk's texts behind one another; how many each has."""
        text, ends = chunk
        counts = np.zeros(len(ends), np.int64)
        if not len(text):
            return counts
        cache, _arrays = self._cache, self._cache_arrays  # kept alive for as long as a kernel may read them
        try:
            scratch, memory = self._idle.pop()
        except IndexError:
            scratch, memory = new_scratch()
        begin, out, readable = text.ctypes.data, ids.ctypes.data, text.ctypes.data + len(text)
        done, n = 0, 0
        while done < len(ends):
            start = int(ends[done - 1]) if done else 0
            failed = done
            if self._ends is None:
                failed = encode.encode_texts(begin, start, ends[done:], counts[done:], readable, self._model, cache,
                                             scratch, out + n * ids.itemsize, self.wide)  # fmt: skip
                failed = len(ends) if failed < 0 else done + failed
                n += int(counts[done:failed].sum())
                if failed == len(ends):
                    break
            one = bytes(text[int(ends[failed - 1]) if failed else 0 : ends[failed]])
            if self._ends is None and counts[failed] == INVALID:
                raise NotUTF8Error(one)
            counts[failed] = self._encode_by_pretokens(one, cache, scratch, ids[n:])
            n += int(counts[failed])
            done = failed + 1
        self._idle.append((scratch, memory))
        self._make_room(cache)
        return counts

    def _encode_by_pretokens(self, text: bytes, cache: Cache, scratch: Scratch, ids: np.ndarray) -> int:
        """Encode a text that Python splits; how many ids it has."""
        try:
            characters = text.decode()
        except UnicodeDecodeError:
            raise NotUTF8Error(text) from None
        data = np.frombuffer(text, np.uint8)
        if self._ends is not None:
            ends = byte_ends(self._ends(characters), characters, data)
            begin = data.ctypes.data
            n = encode.encode_pretokens(
                begin, ends, begin + len(data), self._model, cache, scratch, ids.ctypes.data, self.wide
            )
            if n >= 0:
                return int(n)
        words = Words(self._vocabulary)
        words.longest = len(text)  # there is no other way left
        found = words.encode(characters)
        ids[: len(found)] = found
        return len(found)

    def _make_room(self, cache: Cache) -> None:
        """Replace a cache that is crowded by a larger one, or when it is as large as may be by an empty one."""
        slots, room = 1 << (64 - cache.shift), cache.room
        arrays = self._cache_arrays
        if self._cache is not cache or (2 * arrays[2][0] < slots and arrays[2][1] < room):
            return
        more_slots, more_room = min(4 * slots, MOST_SLOTS), min(4 * room, MOST_ARENA)
        larger, larger_arrays = _new_cache(more_slots, more_room)
        if 4 * arrays[2][0] < 3 * more_slots and arrays[2][1] < more_room:
            caches.rehash(cache, larger)
            used = min(int(arrays[2][1]), room)
            larger_arrays[1][:used] = arrays[1][:used]  # after the slots: what they point to is complete
            larger_arrays[2][1] = used
        self._cache, self._cache_arrays = larger, larger_arrays

    # Decoding

    def decode(self, ids: np.ndarray) -> memoryview:
        """The bytes of ids.

        Raises:
            UnknownIdError: for an id that is not a token.
        """
        if self._decoder is None:
            self._decoder = _decoder(self._vocabulary)
        lengths, starts, tokens = self._decoder
        known = ids.dtype in (np.uint16, np.uint32, np.int64)
        ids = np.ascontiguousarray(ids if known else ids.astype(np.int64))
        total = decode.decoded_length(ids, lengths)
        if total < 0:
            raise UnknownIdError(-1 - total)
        out = np.empty(total + decode.WIDTH, np.uint8)
        decode.decode(ids, lengths, starts, tokens.ctypes.data, out.ctypes.data)
        return out[:total].data


def _chunks(texts: Sequence[Buffer], pattern: str) -> tuple[list[Chunk], list[int]]:
    """Chunks of about CHUNK bytes, and for every text in them, or part of one, the text that it belongs to."""
    chunks: list[Chunk] = []
    owners: list[int] = []
    small: list[Buffer] = []

    def finish() -> None:
        if small:
            ends = np.cumsum([len(text) for text in small])
            data = small[0] if len(small) == 1 else b"".join(small)
            chunks.append((np.frombuffer(data, np.uint8), ends))
            small.clear()

    size = 0
    for i, text in enumerate(texts):
        if size + len(text) > CHUNK:
            finish()
            size = 0
        if len(text) <= CHUNK:
            small.append(text)
            owners.append(i)
            size += len(text)
            continue
        whole, start = np.frombuffer(text, np.uint8), 0
        for end in safe_ends(memoryview(text), CHUNK, pattern):
            chunks.append((whole[start:end], np.array([end - start])))
            owners.append(i)
            start = end
    finish()
    return chunks, owners


def _model(vocabulary: Vocabulary) -> tuple[Model, Arrays]:
    """The merges as the kernels read them, and the arrays that hold them."""
    tokens, merges = vocabulary.tokens, np.array(vocabulary.merges, np.int64).reshape(-1, 2)
    merged = np.array(vocabulary.merged_ids, np.uint32)
    byte_ids = np.array(vocabulary.id_of_byte, np.uint32)
    bits = max(4, (len(merges) // 4).bit_length())
    pairs = aligned(64 << bits)[: 8 << bits]
    pairs[:] = merge.EMPTY
    merge.fill_pairs(merges, pairs, np.uint64(64 - bits))
    byte_ranks = np.full(1 << 16, merge.NO_RANK, np.uint32)
    left, right = merges[:, 0], merges[:, 1]
    byte_of = np.full(len(tokens), -1, np.int64)
    byte_of[byte_ids] = np.arange(256)
    of_bytes = np.flatnonzero((byte_of[left] >= 0) & (byte_of[right] >= 0))[::-1]  # of equal pairs the first counts
    byte_ranks[byte_of[left[of_bytes]] << 8 | byte_of[right[of_bytes]]] = of_bytes
    joins, contexts = crossings(map(tokens.__getitem__, vocabulary.merged_ids))
    classes = class_table()
    arrays = (pairs, merged, byte_ids, byte_ranks, joins, contexts, classes)
    addresses = [array.ctypes.data for array in arrays]
    return Model(
        pairs=addresses[0],
        pairs_bytes=pairs.nbytes,
        shift=64 - bits,
        merged=addresses[1],
        n_ranks=len(merges),
        byte_ids=addresses[2],
        byte_ranks=addresses[3],
        joins=addresses[4],
        contexts=addresses[5],
        classes=addresses[6],
        ordered=int(_is_ordered(merges, merged, byte_ids)),
        pattern=PATTERN_NUMBERS.get(name_of(vocabulary.pattern) or "", -1),
    ), arrays


def _is_ordered(merges: np.ndarray, merged: np.ndarray, byte_ids: np.ndarray) -> bool:
    """Whether every merge comes after those that make its parts, and no two make the same token."""
    if not len(merges):
        return True
    born = np.full(int(max(merged.max(), merges.max(), byte_ids.max())) + 1, len(merges), np.int64)
    born[byte_ids] = -1
    born[merged] = np.arange(len(merged))
    parts_first = bool((born[merges].max(axis=1) < np.arange(len(merges))).all())
    return parts_first and len(np.unique(merged)) == len(merged)


def _new_cache(slots: int, room: int) -> tuple[Cache, Arrays]:
    table, arena, counts = aligned((slots + PROBES) * SLOT), np.empty(room, np.uint8), np.zeros(2, np.int64)
    shift = 64 - (slots.bit_length() - 1)
    return Cache(table.ctypes.data, shift, arena.ctypes.data, room, counts.ctypes.data), (table, arena, counts)


def new_scratch() -> tuple[Scratch, Arrays]:
    """Working memory of one thread, and the arrays that hold it."""
    arrays = tuple(aligned(n_bytes) for n_bytes in SCRATCH_BYTES)
    return Scratch(*(array.ctypes.data for array in arrays)), arrays


def _decoder(vocabulary: Vocabulary) -> Arrays:
    """Length of every token, where it starts, and the bytes of all."""
    lengths = np.array([len(token) for token in vocabulary.tokens], np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return lengths, starts, np.frombuffer(b"".join(vocabulary.tokens) + bytes(2 * decode.WIDTH), np.uint8)
