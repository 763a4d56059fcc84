"""What the flags come to mean, without any framework."""

import math
from pathlib import Path

import numpy as np
import pytest

from lm_core.config import AdamWConfig, KBetaConfig
from lm_core.data.batches import Bursts
from lm_core.errors import UserError
from lm_core.run.folder import RunFolder
from lm_core.run.plan import Plan
from lm_core.schedules import learning_rate
from lm_tokenizer.adapters import train_tokenizer
from testbed_d.flags import Flags
from testbed_d.workload import plan


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("0123456789 abc\n" * 2000)
    return str(path)


def workload(text: str, **flags: object) -> Plan:
    return plan(Flags.parse({"text": text, **flags}), RunFolder(Path(text).parent / "run"))


def test_the_defaults_are_the_published_model_and_k_beta(text: str) -> None:
    made = workload(text)
    assert (made.model.d_model, made.model.n_layers, made.model.n_heads, made.model.seq_len) == (256, 6, 4, 256)
    assert made.model.head_bias
    assert not made.model.tie_embeddings
    assert made.optimizer == KBetaConfig(
        beta2_min=0.88, alpha=0.93, tiny_spike=1e-9, bias_correction="beta2max", warmup_steps=200
    )


def test_the_warm_up_of_beta2_is_not_that_of_the_learning_rate(text: str) -> None:
    made = workload(text, warmup=50, lr=1e-3, lr_warmup=10)
    assert isinstance(made.optimizer, KBetaConfig)
    assert made.optimizer.warmup_steps == 50
    assert [learning_rate(made.schedule, step) for step in (1, 5, 10, 50)] == pytest.approx([1e-4, 5e-4, 1e-3, 1e-3])


def test_the_schedule_replaces_the_rate_and_the_warm_up_multiplies_it(text: str) -> None:
    made = workload(text, lr=9.0, lr_schedule="1:1e-3,30:5e-4", lr_warmup=4)
    assert [learning_rate(made.schedule, step) for step in (1, 4, 29, 30)] == pytest.approx([2.5e-4, 1e-3, 1e-3, 5e-4])


def test_decay_spares_biases_norms_and_embeddings_unless_asked(text: str) -> None:
    assert workload(text, wd=0.1).optimizer.decay_groups == ("matrix",)
    assert workload(text, wd=0.1, wd_bias=True, wd_norm=True, wd_embed=True).optimizer.decay_groups == (
        "matrix",
        "bias",
        "norm",
        "embed",
    )


def test_adam_takes_its_beta2(text: str) -> None:
    assert workload(text, opt="adam", adam_beta2=0.95).optimizer == AdamWConfig(beta2=0.95)


def test_deterministic_fixes_the_length_and_gives_every_array_a_bucket(text: str) -> None:
    made = workload(text, deterministic=True, lmax=100, len_bucket=32)
    assert {made.batches.batch(step).inputs.shape for step in range(1, 20)} == {(64, 100)}
    assert isinstance(made.optimizer, KBetaConfig)
    assert made.optimizer.buckets == "per-array"


def test_lengths_are_rounded_up_and_capped_at_the_context(text: str) -> None:
    made = workload(text, lmin=10, lmax=300, ctx=100, len_bucket=32)
    assert {made.batches.batch(step).inputs.shape[1] for step in range(1, 200)} == {32, 64, 96, 100}
    assert made.evaluation[0].inputs.shape == (128, 100)
    assert "windows are capped at 100" in made.notes[0]


def test_the_validation_batch_depends_on_its_own_seed_alone(text: str) -> None:
    first, second = workload(text, seed=0, batch=3), workload(text, seed=1)
    assert first.evaluation[0].inputs.tobytes() == second.evaluation[0].inputs.tobytes()
    assert first.batches.batch(1).inputs.tobytes() != second.batches.batch(1).inputs[:3].tobytes()


def test_the_held_out_part_is_never_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "two.txt"
    path.write_text("a" * 9000 + "b" * 1000)
    made = workload(str(path))
    b = train_tokenizer("characters", ["ab"]).encode("b")[0]
    assert not any((made.batches.batch(step).targets == b).any() for step in range(1, 50))
    assert (made.evaluation[0].inputs == b).all()


def test_how_products_are_rounded_and_summed_is_torch_s_to_promise(text: str) -> None:
    made = workload(text, backend="torch", deterministic=True, matmul_precision="high", cuda_graph="off").step
    assert (made.deterministic, made.matmul_precision, made.cuda_graph) == (True, "high", "off")
    assert not workload(text, backend="mlx", deterministic=True).step.deterministic
    assert not workload(text, backend="torch").step.deterministic


def test_the_hidden_warm_up_of_k_beta_can_be_given_to_adam(text: str) -> None:
    made = workload(text, opt="adam", adam_beta2=0.95, lr_schedule="1:1e-3,30:5e-4", hidden_warmup=True)
    factor = ((1 - 0.999**30) / (1 - 0.95**30)) ** 0.5
    assert learning_rate(made.schedule, 30) == pytest.approx(5e-4 * factor)
    with pytest.raises(UserError, match="--hidden_warmup is for --opt adam"):
        workload(text, opt="kbeta", hidden_warmup=True)
    with pytest.raises(UserError, match=r"beta2 0\.999 warms nothing up"):
        workload(text, opt="adam", hidden_warmup=True)
    with pytest.raises(UserError, match="--hidden_beta2 without --hidden_warmup"):
        workload(text, opt="adam", hidden_beta2=0.94)
    slow = workload(text, opt="adam", adam_beta2=0.999, hidden_warmup=True, hidden_beta2=0.94, lr=1.0).schedule
    assert learning_rate(slow, 50) == pytest.approx(math.sqrt((1 - 0.999**50) / (1 - 0.94**50)))


def test_bursts_read_another_text_in_rare_stretches_and_leave_the_other_batches_as_they_are(
    text: str, tmp_path: Path
) -> None:
    (tmp_path / "other.txt").write_text("zyxw " * 500)
    plain = workload(text, lmin=8, batch=2).batches
    for named in ({}, {"burst_text": str(tmp_path / "other.txt")}):
        made = workload(text, lmin=8, batch=2, burst_rate=0.2, burst_length=3, **named)
        bursts = made.batches
        assert isinstance(bursts, Bursts)
        marked = [bursts.is_burst(step) for step in range(1, 601)]
        assert all(marked[i] == marked[i + 1] == marked[i + 2] for i in range(0, 600, 3))
        assert 0.1 < sum(marked) / 600 < 0.3
        for step in range(1, 31):
            batch = bursts.batch(step)
            assert bursts.shape(step) == plain.shape(step) == batch.inputs.shape
            if named:
                letters = made.tokenizer.decode(batch.inputs[0].tolist())  # type: ignore[attr-defined]
                assert set(letters) <= set("zyxw " if marked[step - 1] else "0123456789 abc\n")
            else:
                same = np.array_equal(batch.inputs, plain.batch(step).inputs)
                assert same is not marked[step - 1]
    assert made.metadata.keys() == {"text", "burst_text"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [({"burst_text": "x"}, "--burst_text without --burst_rate"), ({"burst_rate": 0.1, "burst_text": "x"}, "too short")],
)
def test_mistakes_about_bursts_are_one_line(text: str, tmp_path: Path, flags: dict[str, object], said: str) -> None:
    (tmp_path / "x").write_text("short")
    with pytest.raises(UserError, match=said):
        workload(text, **{**flags, "burst_text": str(tmp_path / "x")})
