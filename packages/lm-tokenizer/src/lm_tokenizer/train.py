"""Training: a corpus -> counts of its pretokens -> merges -> a vocabulary.

    corpus.py --units--> tally.py --pretokens and counts--> _kernels/learn.py --merges--> Vocabulary

What it learns is what `reference.train` learns and, but for ties that are broken by bytes, Hugging Face's trainer.
"""

import threading
import warnings
from collections.abc import Iterator

import numpy as np

from lm_tokenizer._kernels import layout, learn
from lm_tokenizer._kernels.compiled import load
from lm_tokenizer.corpus import Unit
from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.options import TrainingOptions
from lm_tokenizer.progress import progress_bar
from lm_tokenizer.tally import Table, Tally
from lm_tokenizer.vocab import BYTE_ORDER, Vocabulary

POLL_SECONDS = 0.05
NO_LIMIT = 1 << 62
"""Bytes that no token has."""


def train(
    units: Iterator[Unit], size: int | None, options: TrainingOptions, threads: int, progress: bool
) -> Vocabulary:
    """Learn a vocabulary from the units of a corpus of `size` bytes, where that is known."""
    load("training", progress)
    with progress_bar(progress, total=size, desc="counting", unit="B", unit_scale=True) as bar:
        tally = Tally(options.pattern, threads, bar.update)
        table = tally.count(units)
    if tally.dropped:
        warnings.warn(
            f"the corpus has more than {tally.most:,} distinct pretokens: the rarest {tally.dropped:,} were skipped",
            stacklevel=3,
        )
    tokens, merges = _learn(table, options, progress)
    return _vocabulary(tokens, merges, options)


def _learn(table: Table, options: TrainingOptions, progress: bool) -> tuple[list[bytes], list[tuple[int, int]]]:
    """Tokens and merges, with the ids of a vocabulary without special tokens."""
    n_tokens = options.vocab_size - len(options.special_tokens)
    learner = _Learner(table, n_tokens, options)
    with progress_bar(progress, total=n_tokens - 256, desc="merging", unit="token") as bar:
        learner.start()
        try:
            while learner.is_alive():
                learner.join(POLL_SECONDS)
                bar.update(learner.n_tokens - 256 - bar.n)
        finally:
            learner.stop()
    if learner.error is not None:
        raise learner.error
    return learner.tokens, learner.merges


class _Learner(threading.Thread):
    """Runs the kernel beside the thread that shows its progress and can interrupt it."""

    def __init__(self, table: Table, n_tokens: int, options: TrainingOptions) -> None:
        super().__init__(daemon=True)
        places, numbers = table.pretokens()
        order = np.argsort(-numbers)
        places, numbers = places[order], numbers[order]
        self._until = n_tokens
        self.error: BaseException | None = None
        # In 10 to 100 MB of text the last of 32,000 merges is found more often than this. A floor that is too low
        # costs memory, one that is too high another pass over the pretokens.
        self._least = max(1, options.min_frequency)
        self._floor = max(self._least, int(numbers.sum()) // (16 * n_tokens))
        self._too_long = options.max_token_length or NO_LIMIT
        self._by_bytes = options.tie_break == "bytes"
        dtype = np.uint16 if n_tokens < 1 << 16 else np.uint32
        self._end = int(np.iinfo(dtype).max)
        positions = layout.size_of_layout(places, numbers)
        if positions >= 1 << 32:
            raise TokenizerError(f"the distinct pretokens of the corpus have {positions:,} bytes; the limit is 4 GB")
        self._symbols = np.empty(positions, dtype)
        self._weights = np.zeros((positions >> layout.BLOCK_BITS) + 1, np.int64)
        order_of_bytes = np.frombuffer(BYTE_ORDER, np.uint8)
        id_of_byte = np.argsort(order_of_bytes).astype(np.uint32)
        once = layout.lay_out(places, numbers, table.counts, id_of_byte, self._symbols, self._weights, self._end)
        self._once = np.uint64(once)
        # Untouched until it is used. Every merge leaves a token less, so about this much is ever needed.
        self._room = np.empty(3 * positions, np.uint32)
        self._state = np.array([256, 0, 0], np.int64)
        self._merges = np.empty((n_tokens, 2), np.int64)
        self._starts = np.zeros(n_tokens + 2, np.int64)
        self._starts[:257] = np.arange(257)
        self._texts = np.zeros(32 * n_tokens, np.uint8)
        self._texts[:256] = order_of_bytes
        self._slots = np.full(1 << (4 * n_tokens).bit_length(), -1, np.int64)

    def run(self) -> None:
        """Learn until there are enough tokens, no pair is left, or `stop` is called; `error` says what went wrong."""
        try:
            self._learn()
        except BaseException as error:
            self.error = error

    def _learn(self) -> None:
        while self.n_tokens < self._until and not self._state[2]:
            outcome = learn.learn(
                self._symbols, self._weights, self._end, self._once, self._state, self._merges, self._texts,
                self._starts, self._slots, self._floor, self._until, self._room, self._too_long,
                (self._texts, self._starts) if self._by_bytes else None,
            )  # fmt: skip
            if outcome == learn.NO_ROOM:
                self._merges = np.concatenate([self._merges, np.empty_like(self._merges)])
                self._texts = np.concatenate([self._texts, np.empty_like(self._texts)])
            elif outcome == learn.RARER:
                if self._floor == self._least:
                    return
                self._floor = max(self._least, self._floor // 8)

    def stop(self) -> None:
        """End soon, and wait for it."""
        self._state[2] = 1
        self.join()

    @property
    def n_tokens(self) -> int:
        """How many tokens there are by now."""
        return int(self._state[0])

    @property
    def tokens(self) -> list[bytes]:
        """The tokens, by id."""
        texts, starts = self._texts.tobytes(), self._starts.tolist()
        return [texts[starts[i] : starts[i + 1]] for i in range(self.n_tokens)]

    @property
    def merges(self) -> list[tuple[int, int]]:
        """The merges, by rank."""
        return [(left, right) for left, right in self._merges[: int(self._state[1])].tolist()]


def _vocabulary(tokens: list[bytes], merges: list[tuple[int, int]], options: TrainingOptions) -> Vocabulary:
    """Tokens and merges with the special tokens before or behind them."""
    special = [token.encode() for token in options.special_tokens]
    if not options.special_tokens_first:
        ids = {token: len(tokens) + i for i, token in enumerate(options.special_tokens)}
        return Vocabulary(tokens + special, merges, ids, options.pattern)
    shift = len(special)
    shifted = [(left + shift, right + shift) for left, right in merges]
    ids = {token: i for i, token in enumerate(options.special_tokens)}
    return Vocabulary(special + tokens, shifted, ids, options.pattern)
