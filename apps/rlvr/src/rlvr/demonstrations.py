"""Noisy demonstrations as batches: (seed, step) -> problems -> solutions with slips -> inputs, targets, weights.

A row is a prompt, a solution and the end, and then ends over and over; the weights leave the loss to the solution and
its first end, and are 1 on average over the global batch.
"""

from dataclasses import dataclass

import numpy as np

from lm_core.data.batches import Batch, mean_one
from lm_core.rng import generator
from rlvr.tasks.registry import Mixture, check_length
from rlvr.tasks.task import STEP, Split
from rlvr.vocabulary import END_ID, encode

_KINDS = ("0123456789", "abcdefghijklmnopqrstuvwxyz", "+-*/", "()[]{}")


@dataclass(frozen=True)
class Noise:
    """Mistakes of whoever wrote the demonstrations."""

    wrong: float
    """Probability that what a solution computes is wrong in one character; what follows stands on it."""
    missing: float
    """Probability that a written-out step is left out."""

    def demonstration(self, mixture: Mixture, seed: int, index: int, split: Split, seq_len: int) -> tuple[str, str]:
        """The prompt of a problem, and a solution with mistakes."""
        problem = mixture.problem(seed, index, split)
        check_length(problem, seq_len)
        draw = generator(seed, "noise", split, index)

        def slip(text: str) -> str:
            return other(draw, text) if draw.random() < self.wrong else text

        *steps, answer = problem.task.solve(problem.question, slip).split(STEP)
        kept = [step for step in steps if draw.random() >= self.missing]
        written = STEP.join([*kept, answer])
        return problem.prompt, written if len(problem.prompt + written) < seq_len else problem.solution


def other(draw: np.random.Generator, text: str) -> str:
    """A text with one of its characters, but for the sign of a number, replaced by another of its kind."""
    signed = text.startswith("-")
    places = [(at, kind.replace(c, "")) for at, c in enumerate(text) if at >= signed for kind in _KINDS if c in kind]
    if not places:
        return text
    at, kind = places[int(draw.integers(len(places)))]
    return text[:at] + kind[int(draw.integers(len(kind)))] + text[at + 1 :]


@dataclass(frozen=True)
class Demonstrations:
    """Rows of the problems (step - 1) B, ..., step B - 1 of a split."""

    mixture: Mixture
    noise: Noise
    batch_size: int
    seq_len: int
    seed: int
    split: Split = "train"

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The rows of `step` that belong to `rank` of `world`; `world` divides the batch size."""
        first, share = (step - 1) * self.batch_size, self.batch_size // world
        rows = np.full((self.batch_size, self.seq_len + 1), END_ID, np.int32)
        mask = np.zeros((self.batch_size, self.seq_len), bool)
        for place in range(self.batch_size):  # of all ranks: what the weights' mean is over
            prompt, solution = self.noise.demonstration(
                self.mixture, self.seed, first + place, self.split, self.seq_len
            )
            ids = encode(prompt + solution)
            rows[place, : len(ids)] = ids
            mask[place, len(prompt) - 1 : len(ids)] = True
        own = slice(rank * share, (rank + 1) * share)
        inputs, targets = (np.ascontiguousarray(part[own]) for part in (rows[:, :-1], rows[:, 1:]))
        return Batch(inputs, targets, mean_one(mask)[own])

    def shape(self, step: int) -> tuple[int, int]:
        """B and T of every step."""
        return self.batch_size, self.seq_len
