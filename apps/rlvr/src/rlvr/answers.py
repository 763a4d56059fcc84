"""Answers of a model: prompts -> rows of a decoder, some at a time -> completions, the end spelled out."""

from collections.abc import Callable, Sequence

from lm_core.config import SamplingConfig
from lm_core.sampling import Decoder, Generation
from rlvr.vocabulary import END_ID, VOCABULARY, decode, encode


def complete(
    decoder: Callable[[int], Decoder],
    prompts: Sequence[str],
    seq_len: int,
    seed: int,
    sampling: SamplingConfig,
    rows: int = 256,
) -> list[str]:
    """A completion of each prompt; it ends where the model ends it, or where its context is full.

    Args:
        decoder: makes one of so many rows.
        prompts: shorter than the context.
        seq_len: the model's context.
        seed: of the first completion; each further one uses the next. The completions do not depend on `rows`.
        sampling: how ids are drawn.
        rows: decoded at once, at most.
    """
    sampling = sampling.model_copy(update={"top_k": min(sampling.top_k, VOCABULARY.vocab_size)})
    found = []
    for first in range(0, len(prompts), rows):
        ids = [encode(prompt) for prompt in prompts[first : first + rows]]
        generation = Generation(decoder(len(ids)), ids, seq_len, seed + first, sampling)
        while generation.active:
            drawn = generation.step()
            ended = [row for row, last in drawn.items() if last == END_ID or len(generation.ids[row]) == seq_len]
            generation.end(ended)
        found += [decode(whole[len(prompt) :]) for whole, prompt in zip(generation.ids, ids, strict=True)]
    return found
