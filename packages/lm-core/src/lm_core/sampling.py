"""Sampling: the uniforms come from the host, keyed by (seed, position); the filter runs on the device.

So a seed and a prompt give the same text on every backend. The filter, in this order: repetition penalty, temperature,
top-k, top-p, min-p, on the ids sorted by their logits from the largest (ties by id); then the inverse CDF at the
uniform. At least one id always stays. Sources: repetition penalty, Keskar et al. 2019 (section 4.1); top-p, Holtzman et
al. 2020; min-p, Nguyen et al. 2024.

Where a probability meets a limit, rounding must not decide. The probabilities are float64 (float32 on Metal, which has
no other), and a limit that is missed by no more than `ROUNDING` is met: top-p keeps the fewest ids whose sum reaches
p - ROUNDING, min-p the ids that are at least min_p (1 - ROUNDING) times as likely as the first. So .5 + .3 reaches .8.

    prompts -> decoder.prefill, row by row -> decoder.next_ids, some ids of all rows at once -> ids -> ...
"""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lm_core.config import SamplingConfig
from lm_core.rng import generator

ROUNDING = 1e-6
"""Tolerance by which a probability, or a sum of them, may miss a limit and still meet it."""


class Decoder(Protocol):
    """Rows of ids being continued, each with its part of a KV cache and a length of its own."""

    ids_per_call: int
    """How many ids of each row are best asked for at once: 1 where each is read as it is drawn, more where to read them
    makes the host wait for the device."""

    def prefill(self, row: int, ids: Sequence[int], seen: Collection[int]) -> None:
        """Forget what was in `row` and read `ids` (1 <= len(ids) <= seq_len).

        `seen` are the distinct ids of the whole text so far, for the repetition penalty: `ids` may be only its end.
        """

    def next_ids(self, uniforms: Sequence[Sequence[float]], sampling: SamplingConfig) -> list[list[int]]:
        """Draw the next n ids of every row by inverse CDF at `uniforms` [n, R], and read each where there is room.

        Returns [n, R]. No row may lack room for more than the last of them.
        """

    def room(self, row: int) -> int:
        """Number of ids that still fit into the row before the model's `seq_len` is full."""

    def last_nats(self) -> NDArray[np.float32]:
        """Nats of the ids that `next_ids` drew last, [R], by the model alone: without temperature, filter, penalty.

        Asked right after it. A decoder that replays a CUDA graph keeps no logits for it.
        """

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows, in this order: the others have ended.

        A row may be kept several times, as long as there are no more rows than at first.
        """


def filtered(logits: NDArray[np.floating], config: SamplingConfig, seen: Collection[int] = ()) -> NDArray[np.float64]:
    """The reference of the filter: logits [V] -> probabilities [V] in float64, 0 for what is filtered out.

    `seen` are the ids that the text already holds.
    """
    logits = np.array(logits, dtype=np.float64)
    repeated = sorted(seen)
    penalty = config.repetition_penalty
    logits[repeated] = np.where(logits[repeated] > 0, logits[repeated] / penalty, logits[repeated] * penalty)
    if config.temperature == 0:
        greedy = np.zeros(len(logits))
        greedy[np.argmax(logits)] = 1.0
        return greedy
    order = np.argsort(-logits, kind="stable")  # not by what a very high temperature leaves of the differences
    ranked = np.exp((logits[order] - logits.max()) / config.temperature)
    if config.top_k:
        ranked[config.top_k :] = 0.0
    ranked /= ranked.sum()
    keep = ranked >= (1 - ROUNDING) * config.min_p * ranked[0]
    if config.top_p < 1:  # at 1 nothing is cut off
        # What stands before an id decides whether it is needed to reach p.
        keep &= np.cumsum(ranked) - ranked < config.top_p - ROUNDING
    keep[0] = True
    kept = np.where(keep, ranked, 0.0)
    probabilities = np.empty_like(kept)
    probabilities[order] = kept / kept.sum()
    return probabilities


def uniform(seed: int, position: int) -> float:
    """The uniform in [0, 1) that chooses the id at `position` of the continuation."""
    return float(generator(seed, "sample", position).random())


class Generation:
    """Several texts being continued at once.

    Row r draws with seed + r, so it gets what it would get alone with that seed. Past the model's `seq_len` a text
    continues from the last half of it: the decoder re-reads seq_len // 2 ids once every seq_len - seq_len // 2 ids,
    rather than the whole window for every id.

    Args:
        decoder: with as many rows as there are prompts.
        prompts: ids, at least one each.
        seq_len: the model's.
        seed: of row 0.
        config: how ids are chosen.
    """

    def __init__(
        self, decoder: Decoder, prompts: Sequence[Sequence[int]], seq_len: int, seed: int, config: SamplingConfig
    ):
        self.decoder, self.seq_len, self.seed, self.config = decoder, seq_len, seed, config
        self.ids = [list(prompt) for prompt in prompts]
        self.position = 0
        self.active = list(range(len(prompts)))
        """The rows that have not ended; the decoder holds them in this order."""
        self._drawn: deque[dict[int, int]] = deque()
        """Ids of the next positions, by row: drawn already, not yet handed out."""
        for row in self.active:
            self._prefill(row, row, seq_len)

    def step(self) -> dict[int, int]:
        """The next id of every active row."""
        if not self._drawn:
            self._draw()
        position = self._drawn.popleft()
        drawn = {row: position[row] for row in self.active}
        for row, next_id in drawn.items():
            self.ids[row].append(next_id)
        self.position += 1
        return drawn

    def _draw(self) -> None:
        """As many ids of every row as the decoder likes to draw at once and each has room for."""
        for place, row in enumerate(self.active):
            if self.position and not self.decoder.room(place):
                self._prefill(place, row, max(1, self.seq_len // 2))
        room = min(self.decoder.room(place) for place in range(len(self.active)))
        count = min(self.decoder.ids_per_call, max(1, room))
        greedy = self.config.temperature == 0
        uniforms = [
            [0.0 if greedy else uniform(self.seed + row, self.position + i) for row in self.active]
            for i in range(count)
        ]
        ids = self.decoder.next_ids(uniforms, self.config)
        self._drawn += (dict(zip(self.active, of_position, strict=True)) for of_position in ids)

    def end(self, rows: Collection[int]) -> None:
        """End `rows`; continue the others."""
        places = [place for place, row in enumerate(self.active) if row not in rows]
        if len(places) < len(self.active):
            self.active = [self.active[place] for place in places]
            if places:
                self.decoder.keep(places)

    def _prefill(self, place: int, row: int, most: int) -> None:
        ids = self.ids[row]
        self.decoder.prefill(place, ids[-most:], set(ids) if self.config.repetition_penalty != 1 else ())


def generate(
    decoder: Decoder, prompt: Sequence[int], count: int, seq_len: int, seed: int, config: SamplingConfig
) -> Iterator[int]:
    """Yield `count` ids that continue `prompt`, which may not be empty; see `Generation`."""
    generation = Generation(decoder, [prompt], seq_len, seed, config)
    for _ in range(count):
        yield generation.step()[0]
