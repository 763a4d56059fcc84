"""Rollouts: answers that a model samples to prompts, and the batches by which their rewards improve it.

    prompts --sample--> answers --Problems.rewards--> [G, K] --score, token_weights--> Batch.weights, for some steps

A rollout is a function of (seed, its number, the weights at its start): each of its draws has a key, and no state is
kept. So a run that was saved before it samples the same answers again.

The policy is the model itself: answers are sampled at temperature 1 and without a filter, so that the probabilities of
the decoder and of `score` are the same but for rounding. `mismatch` is the largest difference that was met.

Axes: G prompts, K answers of each, B = G x K rows, T targets, L ids of the longest answer.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lm_core.backend import Scorer, Trainer
from lm_core.config import PolicyGradientConfig, SamplingConfig
from lm_core.data.batches import Batch
from lm_core.errors import UserError
from lm_core.policy_gradient import Answers, Weighted, token_weights
from lm_core.rng import generator
from lm_core.sampling import Decoder
from lm_core.terminal import say

Rewards = Mapping[str, NDArray[np.floating[Any]]]
"""What each answer is worth, [G, K], under "reward", and its components, for the log."""
REWARD, CORRECT = "reward", "correct"
"""Key of the whole reward; key of the component that is 1 for a right answer and else 0."""
_PLAIN = SamplingConfig()
_LEFT = 0.75
"""Part of a decoder's rows that still continue, at which the others are let go: to copy the caches costs a step."""
_ROUND = 8
"""Rows are cut behind the longest, at a multiple of this: few shapes, which a compiler cares about."""


class Problems(Protocol):
    """Prompts without end, each a function of its number, and what answers to them are worth."""

    def prompts(self, first: int, count: int) -> list[list[int]]:
        """The ids of the prompts from number `first` on, one at least each."""

    def rewards(self, first: int, answers: Sequence[Sequence[Sequence[int]]]) -> Rewards:
        """What the answers are worth, K to each of the G prompts from number `first` on: the ids, and their end."""


@dataclass(frozen=True)
class Sampled:
    """Answers as a decoder has drawn them."""

    ids: NDArray[np.int32]
    """[B, L], filled up with the id that ends an answer."""
    nats: NDArray[np.float32]
    """[B, L], of each id where it was drawn, and else 0."""
    lengths: NDArray[np.int64]
    """[B], ids that were drawn, the end among them."""

    def answers(self, samples: int) -> list[list[list[int]]]:
        """The ids of each prompt's answers."""
        rows = [ids[:length].tolist() for ids, length in zip(self.ids, self.lengths, strict=True)]
        return [rows[i : i + samples] for i in range(0, len(rows), samples)]


def sample(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    samples: int,
    longest: int,
    end_id: int,
    uniforms: Callable[[int], NDArray[np.float64]],
) -> Sampled:
    """Draw `samples` answers to each prompt, all at once; a prompt is read once for all of its answers.

    Rows that have ended are let go when they are a quarter of those that the decoder holds.

    Args:
        decoder: of B rows, one at a time of whose ids is drawn.
        prompts: ids, with room for an answer behind each.
        samples: K.
        longest: ids of an answer at most, its end among them.
        end_id: the id that ends one.
        uniforms: of all B rows at a position of the answer, in [0, 1).
    """
    rows = len(prompts) * samples
    for row, prompt in enumerate(prompts):
        decoder.prefill(row, prompt, ())
    decoder.keep(np.repeat(np.arange(len(prompts)), samples).tolist())
    ids, nats = np.full((rows, longest), end_id, np.int32), np.zeros((rows, longest), np.float32)
    lengths, going, held = np.zeros(rows, np.int64), np.ones(rows, bool), np.arange(rows)
    for position in range(longest):
        [drawn] = decoder.next_ids([uniforms(position)[held].tolist()], _PLAIN)
        left = going[held]
        active = held[left]
        ids[active, position] = np.array(drawn)[left]
        nats[active, position] = decoder.last_nats()[left]
        lengths[active] += 1
        going[active] = ids[active, position] != end_id
        if not going.any():
            break
        left = going[held]
        if left.mean() <= _LEFT:
            decoder.keep(np.flatnonzero(left).tolist())
            held = held[left]
    return Sampled(ids, nats, lengths)


def laid_out(
    prompts: Sequence[Sequence[int]], sampled: Sampled, end_id: int, seq_len: int
) -> tuple[Batch, NDArray[np.bool_]]:
    """Prompts and their answers as a batch, without weights, and which of its targets were sampled, [B, T]."""
    samples = len(sampled.ids) // len(prompts)
    starts = np.repeat([len(prompt) for prompt in prompts], samples)
    width = int((starts + sampled.lengths).max()) - 1
    width = min(-(-width // _ROUND) * _ROUND, seq_len)
    rows = np.full((len(sampled.ids), width + 1), end_id, np.int32)
    mask = np.zeros((len(rows), width), bool)
    for row, (start, length) in enumerate(zip(starts, sampled.lengths, strict=True)):
        rows[row, :start] = prompts[row // samples]
        rows[row, start : start + length] = sampled.ids[row, :length]
        mask[row, start - 1 : start - 1 + length] = True
    return Batch(np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])), mask


@dataclass(frozen=True)
class Rollout:
    """One rollout, as the policy that sampled it scores it."""

    number: int
    batch: Batch
    answers: Answers
    metrics: Mapping[str, float | Mapping[str, float]]


@dataclass(eq=False, kw_only=True)
class Rollouts:
    """Batches of a run that improves by its own answers (`lm_core.run.plan.SampledBatches`).

    Rollout n has the prompts n G, ..., (n + 1) G - 1 and serves the steps n U + 1, ..., (n + 1) U, U being
    `config.updates`. Of several ranks each samples the whole rollout, and trains on its rows of it.
    """

    problems: Problems
    config: PolicyGradientConfig
    groups: int
    """G."""
    longest: int
    """L."""
    end_id: int
    seq_len: int
    """Of the model."""
    vocab_size: int
    """Ids that may be drawn: those of the tokenizer."""
    seed: int
    reference: Callable[[], Scorer] | None = None
    """Makes the policy from which the divergence is measured."""
    clock: Callable[[], float] = time.perf_counter
    trainer: Trainer | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._scorer: Scorer | None = None
        self._current: Rollout | None = None
        self._weighted: Weighted | None = None
        self._started, self._sampling = 0.0, 0.0

    @property
    def every(self) -> int:
        """Number of steps that a rollout serves."""
        return self.config.updates

    def shape(self, step: int) -> tuple[int, int]:
        """B and the longest T of every step."""
        return self.groups * self.config.group_size, self.seq_len

    def of(self, trainer: Trainer) -> "Rollouts":
        """Those that this trainer samples."""
        mine = replace(self)
        mine.trainer, mine._scorer = trainer, self.reference() if self.reference else None
        mine._started = self.clock()
        return mine

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The rows of `step` that belong to `rank` of `world`; `world` divides them."""
        assert self.trainer, "the session gives the trainer"
        number, update = divmod(step - 1, self.every)
        if self._current is None or self._current.number != number:
            assert update == 0, "a run is resumed between two rollouts"
            self._current = self._rollout(number, self.trainer)
        found = self._current
        now = self.trainer.score(found.batch) if update else found.answers.now
        self._weighted = token_weights(self.config, replace(found.answers, now=now), self.longest)
        batch = replace(found.batch, weights=self._weighted.weights)
        return batch if world == 1 else batch.split(world)[rank]

    def metrics(self, step: int) -> Mapping[str, float | Mapping[str, float]]:
        """Metrics of the rollout of `step`, and of its weights at that step."""
        assert self._current
        assert self._weighted
        passed = max(self.clock() - self._started, 1e-9)
        return {
            **self._current.metrics,
            "entropy": self._weighted.entropy,
            "kl": self._weighted.kl,
            "clipped": self._weighted.clipped,
            "silent": self._weighted.silent,
            "sampling_share": self._sampling / passed,
        }

    def _rollout(self, number: int, trainer: Trainer) -> Rollout:
        first, samples, begun = number * self.groups, self.config.group_size, self.clock()
        prompts = self.problems.prompts(first, self.groups)
        self._check_room(prompts)
        rows = self.groups * samples

        def uniforms(position: int) -> NDArray[np.float64]:
            return generator(self.seed, "rollout", number, position).random(rows)

        decoder = trainer.decoder(rows, self.vocab_size)
        sampled = sample(decoder, prompts, samples, self.longest, self.end_id, uniforms)
        seconds = self.clock() - begun
        self._sampling += seconds
        rewards = self.problems.rewards(first, sampled.answers(samples))
        _check_finite(rewards)
        if self._current is None and np.ptp(rewards[REWARD]) == 0:
            say(
                f"note: all {rows} answers of the first rollout have the reward {rewards[REWARD].flat[0]:g}: there is"
                " nothing to learn from; make the task easier or harder, or train the model longer before"
            )
        batch, mask = laid_out(prompts, sampled, self.end_id, self.seq_len)
        nats = trainer.score(batch)
        reference = self._scorer.score(batch) if self._scorer else None
        of_decoder = np.concatenate([row[:n] for row, n in zip(sampled.nats, sampled.lengths, strict=True)])
        metrics: dict[str, float | Mapping[str, float]] = {
            REWARD: float(rewards[REWARD].mean()),
            "rewards": {name: float(values.mean()) for name, values in rewards.items() if name != REWARD},
            **({"pass_at_1": float(rewards[CORRECT].mean())} if CORRECT in rewards else {}),
            "answer_length": float(sampled.lengths.mean()),
            "mismatch": float(np.abs(of_decoder - nats[mask]).max()),
            "sampling_seconds": seconds,
        }
        return Rollout(number, batch, Answers(rewards[REWARD], mask, nats, nats, reference), metrics)

    def _check_room(self, prompts: Sequence[Sequence[int]]) -> None:
        most = max(map(len, prompts))
        if most + self.longest > self.seq_len:
            raise UserError(
                f"a prompt of {most} tokens and an answer of {self.longest} do not fit into the model's context of"
                f" {self.seq_len}: take easier problems, shorter answers, or a model with a longer context"
            )


def _check_finite(rewards: Rewards) -> None:
    for name, values in rewards.items():
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            group, answer = bad[0]
            raise UserError(
                f"the reward {name!r} of answer {answer + 1} to prompt {group + 1} of the rollout is"
                f" {values[group, answer]}: a reward is a finite number"
            )
