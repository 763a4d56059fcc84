"""A study of a model: every array of it, made in parts, and as a file."""

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lm_core.backend import Scorer
from lm_core.config import ModelConfig
from lm_core.data.batches import Batch
from lm_core.disk.files import write_whole
from lm_core.errors import UserError
from lm_pipeline.inside.ablation import ablation_costs
from lm_pipeline.inside.attention import AttentionSums, some_heads
from lm_pipeline.inside.induction import induction_scores, repeated_sequences
from lm_pipeline.inside.lens import LensSums

Array = NDArray[np.float64]
Maps = NDArray[np.float32]
MAP_TOKENS, REPEATED = 48, 12
"""Tokens of a map of the text, and of a pattern in one of repeated tokens, at most."""


@dataclass(frozen=True)
class Study:
    """What a model does, head by head and layer by layer; docs/inside.md defines each."""

    distance: Array
    """Share of attention that goes to the token d before, [L, N, T]; sums to 1 over d."""
    mean_distance: Array
    """Mean of d, [L, N], in tokens."""
    entropy: Array
    """Of what a query attends to, mean over the queries, [L, N], in nats."""
    previous_token: Array
    """Attention to the token before, mean over the queries that have one, [L, N]."""
    first_token: Array
    """Attention to the first token of a window, mean over the other queries, [L, N]."""
    induction: Array
    """Attention to the token after the first occurrence, [L, N]."""
    ablation: Array
    """Nats per token that the loss rises by without the head, [L, N]; NaN where that was not measured."""
    lens_loss_nats: Array
    """Loss of each layer by the logit lens, [L]; the last is the model's own."""
    lens_agreement: Array
    """Share of tokens at which a layer's first choice is the model's, [L]."""
    repeat_loss_nats: Array
    """Loss at each place of the repeated random sequences, [2 P]."""
    text_maps: Maps
    """Attention weights of the beginning of the text, [L, N, M, M]."""
    text_tokens: NDArray[np.str_]
    """The tokens of those, [M]."""
    repeat_maps: Maps
    """The same of the beginning and the repetition of a sequence of random tokens, [L, N, 2 P', 2 P']."""
    repeat_tokens: NDArray[np.str_]
    """The tokens of those."""
    text: str
    """The text of `text_maps`."""
    tokens: int
    """How many of the text were read."""
    lens_tokens: int
    """Of how many of those, the first, the lens is."""

    def save(self, path: Path) -> None:
        """Write an npz file, without pickle."""
        data = io.BytesIO()
        np.savez_compressed(data, **asdict(self))
        write_whole(path, data.getvalue())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read one."""
        with np.load(path, allow_pickle=False) as arrays:
            values = dict(arrays)
        counts = {name: int(values[name]) for name in ("tokens", "lens_tokens")}
        return cls(**{**values, **counts, "text": str(values["text"])})


def make_study(
    scorer: Scorer,
    config: ModelConfig,
    weights: Mapping[str, NDArray[Any]],
    batches: Sequence[Batch],
    ablated: Sequence[Batch],
    decode: Callable[[Sequence[int]], str],
    seed: int = 0,
    left_out: Collection[int] = (),
    vocab_size: int | None = None,
    shown: NDArray[np.int32] | None = None,
    lens_tokens: int | None = None,
    tick: Callable[[], object] = lambda: None,
) -> Study:
    """Study a model on a text and on random sequences that repeat.

    Args:
        scorer: holds the model.
        config: its shape.
        weights: of the table, which the scorer holds.
        batches: of the text, rows of one length (`windows`).
        ablated: those on which the loss without each head is measured; none: it is not measured.
        decode: the text of ids.
        seed: of the random sequences.
        left_out: ids that these do not have.
        vocab_size: ids are drawn below it, by default from the whole vocabulary.
        shown: ids [M] whose maps are kept, by default the beginning of the text.
        lens_tokens: of how many tokens the logit lens is, in whole batches; by default of all. It costs the head's
            product once a layer, which is most of the time of a study with a large vocabulary.
        tick: called after each batch and each head.

    Raises:
        UserError: where the model is too small to repeat a sequence, or a loss is not a number.
    """
    found, read = _of_text(scorer, config, batches, lens_tokens, tick)
    repeated = repeated_sequences(vocab_size or config.vocab_size, config.seq_len, seed, left_out)
    induction, losses = _of_repetition(scorer, config, repeated)
    if not np.isfinite(losses).all() or not np.isfinite(found["lens_loss_nats"]).all():
        raise UserError("checkpoint: the model's loss is not a number: its weights have diverged")
    ids = (batches[0].inputs[0] if shown is None else shown)[:MAP_TOKENS]
    period = min(repeated.inputs.shape[1] // 2, REPEATED)
    repeat = np.tile(repeated.inputs[0, :period], 2)
    costs = np.full((config.n_layers, config.n_heads), np.nan)
    return Study(
        **found,
        induction=induction,
        ablation=ablation_costs(scorer, config, weights, ablated, tick) if ablated else costs,
        repeat_loss_nats=losses,
        text_maps=_maps(scorer, ids),
        text_tokens=np.array([decode([i]) for i in ids.tolist()]),
        repeat_maps=_maps(scorer, repeat),
        repeat_tokens=np.array([decode([i]) for i in repeat.tolist()]),
        text=decode(ids.tolist()),
        tokens=sum(batch.tokens for batch in batches),
        lens_tokens=read,
    )


def _of_text(
    scorer: Scorer,
    config: ModelConfig,
    batches: Sequence[Batch],
    lens_tokens: int | None,
    tick: Callable[[], object],
) -> tuple[dict[str, Array], int]:
    """The arrays that are of a text, and of how many tokens the lens is."""
    sums = AttentionSums(config.n_layers, config.n_heads, batches[0].inputs.shape[1])
    lens = LensSums(config.n_layers)
    for batch in batches:
        is_read, seen = lens_tokens is None or lens.tokens < lens_tokens, []
        for i, layer in enumerate(scorer.tap(batch)):
            sums.add(i, layer, len(batch.inputs))
            if is_read:
                seen.append(layer.lens(batch.targets))
        if is_read:
            nats, ids = map(np.stack, zip(*seen, strict=True))
            lens.add(nats, ids)
        tick()
    return sums.results() | lens.results(), lens.tokens


def _of_repetition(scorer: Scorer, config: ModelConfig, batch: Batch) -> tuple[Array, Array]:
    """Induction scores [L, N], and the loss at each place, [2 P]."""
    scores = np.zeros((config.n_layers, config.n_heads))
    for i, layer in enumerate(scorer.tap(batch)):
        for heads, weights in some_heads(layer, config.n_heads, batch.inputs.shape):
            scores[i, heads] = induction_scores(weights)
    return scores, scorer.score(batch).mean(axis=0, dtype=np.float64)


def _maps(scorer: Scorer, ids: NDArray[np.int32]) -> Maps:
    """[M] ids -> [L, N, M, M]."""
    row = ids[None]
    return np.stack([layer.attention()[0] for layer in scorer.tap(Batch(row, row))])
