"""Reinforcement learning by both backends: the same rollouts, the same curve, and a run that is resumed to the bit."""

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lm_core.backend import load_backend
from lm_core.config import (
    AdamWConfig,
    Config,
    LoopConfig,
    ModelConfig,
    PolicyGradientConfig,
    ScheduleConfig,
    StepConfig,
)
from lm_core.model.init import initial_arrays
from lm_core.rollouts import Rollouts
from lm_core.run import session
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.folder import RunFolder
from lm_core.run.log import TIMING_FIELDS, read_records
from lm_core.run.plan import Plan
from lm_core.run.resume import Policy
from lm_tokenizer.adapters.characters import CharacterTokenizer

BACKENDS = [name for name in ("torch", "mlx") if importlib.util.find_spec(name)]
TOKENIZER = CharacterTokenizer("abcdefg", ["<eos>"])
END = TOKENIZER.special_tokens["<eos>"]
MODEL = ModelConfig(vocab_size=TOKENIZER.vocab_size, seq_len=12, d_model=16, n_layers=1, n_heads=2)
POLICY = Policy(refused="", recorded="", no_effect="", call="")
METRICS = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"


class Threes:
    """An answer is worth the share of its ids that are 3."""

    def prompts(self, first: int, count: int) -> list[list[int]]:
        return [
            [number % 7, (number + i) % 7][-1 - number % 2 :] for i, number in enumerate(range(first, first + count))
        ]

    def rewards(self, first: int, answers: Sequence[Sequence[Sequence[int]]]) -> dict[str, NDArray[np.float64]]:
        worth = [[list(ids).count(3) / len(ids) for ids in of_prompt] for of_prompt in answers]
        return {"reward": np.array(worth), "correct": np.array(worth) > 0.5}


def plan_of(backend: str, steps: int, **more: Any) -> Plan:
    step = StepConfig(device="cpu", varying_length=True)
    weights = initial_arrays(MODEL, 0)
    rollouts = Rollouts(
        problems=Threes(),
        config=PolicyGradientConfig(group_size=6, updates=2, kl=0.01, kl_in="loss"),
        groups=5,
        longest=8,
        end_id=END,
        seq_len=MODEL.seq_len,
        vocab_size=MODEL.vocab_size,
        seed=3,
        reference=lambda: load_backend(backend).scorer(MODEL, step, weights),
    )
    plan = Plan(
        config=Config(),
        policy=POLICY,
        command="rl",
        resume_command="rl",
        backend=backend,
        seed=0,
        model=MODEL,
        optimizer=AdamWConfig(grad_clip=1.0),
        step=step,
        schedule=ScheduleConfig(peak_lr=1e-2),
        loop=LoopConfig(max_steps=steps, log_every=1, save_every=2),
        batches=rollouts,
        data="threes",
        training_tokens=1,
        tokenizer=TOKENIZER,
        weights=weights,
        keep=99,
        console=False,
    )
    return replace(plan, **more)


def trained(folder: Path, plan: Plan) -> list[dict[str, Any]]:
    run = RunFolder(folder)
    with session.opened(run, Config, POLICY, resume=run.holds_run()) as known:
        session.run(replace(plan, checkpoint=known.checkpoint if known else None), run)
    return [{k: v for k, v in record.items() if k not in TIMING_FIELDS} for record in read_records(run.metrics)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_decoder_and_score_agree_in_every_rollout_and_the_reward_rises(tmp_path: Path, backend: str) -> None:
    records = trained(tmp_path / "run", plan_of(backend, 40))
    assert max(record["mismatch"] for record in records) <= 1e-5
    assert np.mean([r["reward"] for r in records[-8:]]) > 2 * records[0]["reward"]
    assert records[0]["kl"] == pytest.approx(0, abs=1e-5) and records[-1]["kl"] > 0.1  # noqa: PT018
    assert {record["clipped"] for record in records[::2]} == {0.0}
    assert max(record["clipped"] for record in records[1::2]) > 0


def test_equal_seeds_give_the_same_rollouts_and_curve_on_both_backends(tmp_path: Path) -> None:
    if len(BACKENDS) < 2:
        pytest.skip("one backend is installed")
    ours, theirs = (trained(tmp_path / name, plan_of(name, 20)) for name in BACKENDS)
    for one, other in zip(ours, theirs, strict=True):
        for name in ("reward", "pass_at_1", "answer_length", "silent"):  # of the sampled ids alone
            assert one[name] == other[name], one["step"]
        for name in ("loss_nats", "grad_norm", "entropy", "kl", "clipped"):
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-3), (name, one["step"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_is_resumed_to_the_bit_between_any_two_rollouts(tmp_path: Path, backend: str) -> None:
    whole = tmp_path / "whole"
    expected, [last] = trained(whole, plan_of(backend, 8)), _arrays(whole, 8)
    for step in (2, 6):
        part = RunFolder(tmp_path / str(step))
        trained(part.path, plan_of(backend, step))
        assert trained(part.path, plan_of(backend, 8)) == expected
        assert _arrays(part.path, 8) == [last]


def _arrays(folder: Path, step: int) -> list[dict[str, bytes]]:
    checkpoints = Checkpoints(RunFolder(folder).checkpoints)
    found = [checkpoints.read(path) for path in checkpoints.folder.glob("*.metadata")]
    return [{name: a.tobytes() for name, a in (c.weights | c.optimizer_state).items()} for c in found if c.step == step]


def test_the_docs_list_what_a_rollout_adds_to_a_record(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    trained(run.path, plan_of(BACKENDS[0], 2))
    plain, ours = (
        re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE) for part in METRICS.read_text().split("| Field of a rollout")
    )
    found = {name for record in read_records(run.metrics) for name in record}
    assert found - set(plain) == set(ours)
