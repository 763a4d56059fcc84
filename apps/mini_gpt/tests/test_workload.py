"""What the flags come to mean, without any framework."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_core.config import AdamWConfig
from lm_core.errors import UserError
from lm_core.run.folder import RunFolder
from lm_core.run.plan import Plan
from lm_core.schedules import learning_rate
from mini_gpt.flags import Flags
from mini_gpt.resume_policy import POLICY
from mini_gpt.sample import checkpoint_of
from mini_gpt.workload import plan, schedule_of

SMALL = {"vocab_size": 270, "block_size": 8, "n_layer": 1, "n_embed": 8, "n_head": 2, "batch_size": 2}


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("0123456789 and some words\n" * 200)
    return str(path)


def workload(text: str, **flags: object) -> Plan:
    return plan(Flags.parse({"data_file": text, **SMALL, **flags}), RunFolder(Path(text).parent / "run"))


def test_every_flag_has_a_decision() -> None:
    assert POLICY.problems(Flags) == []


def test_the_defaults_are_the_model_of_the_guide() -> None:
    flags = Flags()
    assert (flags.n_layer, flags.n_embed, flags.n_head, flags.block_size, flags.dropout) == (6, 384, 6, 256, 0.1)
    assert (flags.vocab_size, flags.batch_size, flags.grad_accum_steps, flags.max_steps) == (8000, 128, 2, 3000)
    assert (flags.warmup_steps, flags.min_factor, flags.tokenizer) == (200, 0.1, "ours")


def test_the_flags_arrive(text: str) -> None:
    made = workload(text, dropout=0.25, weight_decay=0.2, amp=True, grad_accum_steps=3, gradient_checkpointing=True)
    assert (made.model.seq_len, made.model.n_layers, made.model.d_model, made.model.n_heads) == (8, 1, 8, 2)
    assert (made.model.dropout, made.model.vocab_size) == (0.25, 270)
    assert made.optimizer == AdamWConfig(beta2=0.99, weight_decay=0.2, grad_clip=1.0)
    assert (made.step.dtype, made.step.grad_accum_steps, made.step.gradient_checkpointing) == ("bfloat16", 3, True)
    assert made.batches.batch(1).inputs.shape == (6, 8)
    assert workload(text).step.dtype == "float32"


@given(st.integers(0, 40), st.integers(41, 120), st.floats(0, 1))
def test_the_cosine_is_that_of_the_guide(W: int, T: int, m: float) -> None:
    schedule = schedule_of(Flags(use_cosine=True, warmup_steps=W, max_steps=T, min_factor=m, base_lr=2e-3))
    for t in range(T):
        guide = (t + 1) / W if t < W else m + 0.5 * (1 - m) * (1 + math.cos(math.pi * (t - W) / (T - W)))
        assert learning_rate(schedule, t + 1) == pytest.approx(2e-3 * guide, rel=1e-12)


def test_without_the_cosine_the_rate_stays() -> None:
    schedule = schedule_of(Flags(warmup_steps=4, base_lr=2e-3))
    assert [learning_rate(schedule, step) for step in (1, 2, 4, 5, 3000)] == [5e-4, 1e-3, 2e-3, 2e-3, 2e-3]


def test_what_is_held_out_is_not_trained_on_and_is_scored_from_its_start(text: str) -> None:
    made = workload(text, eval_tokens=20)
    assert sum(batch.tokens for batch in made.evaluation) == 20
    held_out = Path(text).read_text()[-520:]
    ids = made.tokenizer.encode(held_out)  # type: ignore[attr-defined]
    assert made.evaluation[0].inputs[0].tolist() == ids[:8]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"n_head": 3}, "--n_head 3 does not divide --n_embed 8"),
        ({"use_cosine": True, "warmup_steps": 3000}, "--warmup_steps 3,000 leaves no room"),
        ({"block_size": 10**6}, "too short"),
        ({"vocab_size": 100}, "vocab_size"),
        ({"data_dir": "."}, "contradict"),
    ],
)
def test_a_mistake_is_one_line(text: str, flags: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        workload(text, **flags)
    assert "\n" not in str(caught.value)


def test_a_text_that_gives_fewer_tokens_says_how_many(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = workload(text, vocab_size=5000)
    assert 270 < made.model.vocab_size < 400
    assert f"this text gives at most {made.model.vocab_size}, which are used" in capsys.readouterr().err


def test_a_checkpoint_is_named_by_its_kind_or_its_path(tmp_path: Path) -> None:
    run = tmp_path / "newest"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.toml").write_text("")
    assert checkpoint_of("bpe_best", tmp_path) == (run, "best")
    assert checkpoint_of("mini_gpt_last", tmp_path) == (run, "latest")
    assert checkpoint_of(str(run)) == (run, "best")
    assert checkpoint_of(f"{run}/mini_gpt_last") == (run, "latest")
    with pytest.raises(UserError, match="there is no run under"):
        checkpoint_of("bpe_best", run)
