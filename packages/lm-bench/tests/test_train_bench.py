"""Training against the peers on tiny models: they are the same model, and the report says what was measured."""

import json
import sys
from dataclasses import replace

import pytest

from lm_bench import cli, commands
from lm_bench.agreement import Agreement, NotSameModelError, agreement
from lm_bench.cases import Case
from lm_bench.flags import TrainFlags
from lm_bench.memory import Memory
from lm_bench.statistics import Quartiles
from lm_bench.train import convergence, loop, memory, sides, speed
from lm_bench.train.convergence import Convergence
from lm_bench.train.loop import LoopCost
from lm_bench.train.measurement import Results, measure
from lm_bench.train.memory import PeakMemory, TrainMemoryJob
from lm_bench.train.report import train_report
from lm_bench.train.sides import SideName, make_side, side_names, step_config
from lm_bench.train.speed import Proof, Speed
from lm_bench.train.workload import nanogpt_adamw, workload
from lm_core.config import ModelConfig
from lm_core.errors import UserError
from lm_core.run import session
from lm_core.run.checkpoint import Checkpoints

MODEL = ModelConfig(vocab_size=11, seq_len=8, d_model=16, n_layers=2, n_heads=2, tie_embeddings=True)
WITHOUT_BIASES = MODEL.model_copy(update={"bias": False, "mlp": "gelu"})
UNTIED = MODEL.model_copy(update={"tie_embeddings": False, "head_bias": True})
TINY = Case("tiny", MODEL, nanogpt_adamw(0.99), batch_size=2, lr=1e-2, window=6)
STEP = step_config("float32", False, "cpu")
ONES = Quartiles(1, 1, 1)


BACKENDS_OF = {"plain": ("torch", "mlx"), "checkpointing": ("torch", "mlx")}
SIDES = [(who, backend) for who in ("plain", "plain-fused", "huggingface", "checkpointing")
         for backend in BACKENDS_OF.get(who, ("torch",))]  # fmt: skip


def need(who, backend="torch"):
    pytest.importorskip(f"lm_{backend}")
    if who == "huggingface":
        pytest.importorskip("transformers")


def no_wait():
    pass


@pytest.mark.parametrize("model", [MODEL, WITHOUT_BIASES, UNTIED], ids=["biases", "no biases", "untied"])
@pytest.mark.parametrize(("who", "backend"), SIDES)
def test_a_peer_trains_our_model_with_our_optimizer(who, backend, model):
    need(who, backend)
    if who == "huggingface" and not model.tie_embeddings:
        pytest.skip("GPT-2's head is its token table")
    case = replace(TINY, model=model)
    ours, theirs = (make_side(side, case, STEP, backend) for side in ("ours", who))
    batches = case.batches(8)
    for batch in batches:
        assert float(theirs.step(batch, case.lr)) == pytest.approx(float(ours.step(batch, case.lr)), abs=1e-5)
    assert float(theirs.evaluate(batches[0])) == pytest.approx(float(ours.evaluate(batches[0])), abs=1e-5)


@pytest.mark.parametrize(
    "changed",
    [
        {"optimizer": nanogpt_adamw(0.9)},
        {"optimizer": nanogpt_adamw(0.99).model_copy(update={"eps": 1e-3})},
        {"optimizer": nanogpt_adamw(0.99).model_copy(update={"grad_clip": 0.1, "eps": 1e-2})},
        {"lr": 1.1e-2},
        {"model": MODEL.model_copy(update={"n_heads": 1})},
        {"model": MODEL.model_copy(update={"norm_eps": 1e-1})},
    ],
    ids=["beta2", "eps", "clip", "lr", "heads", "norm_eps"],
)
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_another_model_or_optimizer_is_noticed(backend, changed):
    need("plain", backend)
    other = replace(TINY, **changed)
    ours, theirs = make_side("ours", TINY, STEP, backend), make_side("plain", other, STEP, backend)
    batches = TINY.batches(12)
    losses = [[float(side.step(batch, lr)) for batch in batches] for side, lr in ((ours, TINY.lr), (theirs, other.lr))]
    with pytest.raises(NotSameModelError, match="not the same model"):
        agreement(*losses, 1e-3)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_the_plain_loops_agree_in_bfloat16(backend):
    need("plain", backend)
    ours, plain = (make_side(who, TINY, step_config("bfloat16", False, "cpu"), backend) for who in ("ours", "plain"))
    for batch in TINY.batches(5):
        assert float(ours.step(batch, TINY.lr)) == pytest.approx(float(plain.step(batch, TINY.lr)), abs=2e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_compiled_plain_loop_is_the_same_loop(dtype):
    need("plain", "mlx")  # torch's compiler takes a minute
    eager, compiled = (make_side("plain", TINY, step_config(dtype, c, "cpu"), "mlx") for c in (False, True))
    for batch in TINY.batches(5):
        assert float(eager.step(batch, TINY.lr)) == pytest.approx(float(compiled.step(batch, TINY.lr)), abs=1e-3)


@pytest.mark.parametrize(("who", "backend"), [("ours", "torch"), *SIDES])
def test_forward_and_backward_take_no_step(who, backend):
    need(who, backend)
    side, batch = make_side(who, TINY, STEP, backend), TINY.batches(1)[0]
    first = float(side.evaluate(batch))
    assert float(side.forward_backward(batch)) == pytest.approx(first, abs=1e-6)
    assert float(side.evaluate(batch)) == first


def test_every_side_is_timed_on_the_same_batches_and_compared_with_ours():
    need("huggingface")
    names, _ = side_names(("plain", "huggingface"), "float32")
    built = {name: make_side(name.who, TINY, STEP) for name in names}
    speeds, proofs = speed.measure(TINY, "step", built, 1, 4, no_wait, 1e12)
    assert [(row.side, row.ratio is None) for row in speeds] == [
        ("ours", True), ("plain", False), ("huggingface", False),
    ]  # fmt: skip
    assert all(row.tokens_per_second.median == pytest.approx(12 / row.step_ms.median * 1e3) for row in speeds)
    assert [(proof.side, proof.agreement.steps) for proof in proofs] == [("plain", 12), ("huggingface", 12)]
    assert all(proof.agreement.last_loss < proof.agreement.first_loss for proof in proofs)


class Recorder:
    """A side that notes its turns."""

    def __init__(self, name, order, loss=1.0):
        self.name, self.order, self.loss = name, order, loss

    def step(self, batch, lr):
        self.order.append(self.name)
        return self.loss


def test_the_sides_take_turns_and_every_round_starts_with_another():
    order = []
    names = [SideName("ours", "float32"), SideName("plain", "float32"), SideName("huggingface", "float32")]
    speed.measure(TINY, "step", {name: Recorder(name.who, order) for name in names}, 1, 1, no_wait, 1e12)
    turns = [order[i : i + 3] for i in range(0, 9, 3)]
    assert all(sorted(turn) == ["huggingface", "ours", "plain"] for turn in turns)
    assert len({turn[0] for turn in turns}) > 1


def test_a_side_with_another_loss_is_named():
    built = {
        SideName("ours", "float32"): Recorder("ours", []),
        SideName("plain", "float32"): Recorder("plain", [], loss=1.1),
    }
    with pytest.raises(NotSameModelError, match="that of plain"):
        speed.measure(TINY, "step", built, 1, 1, no_wait, 1e12)


def test_in_bfloat16_a_peer_runs_in_float32_and_under_autocast():
    names, _ = side_names(("plain",), "bfloat16")
    assert [(str(name), name.dtype) for name in names] == [
        ("ours", "bfloat16"), ("plain float32", "float32"), ("plain autocast", "bfloat16"),
    ]  # fmt: skip


def test_a_peer_that_is_not_installed_is_named_and_left_out(monkeypatch):
    monkeypatch.setattr(sides, "find_spec", lambda name: None)
    names, missing = side_names(("plain", "huggingface"), "float32")
    assert [str(name) for name in names] == ["ours", "plain"]
    assert missing == ["huggingface"]
    assert "not installed: huggingface" in train_report(Results("cpu", missing), TrainFlags())


def test_what_mlx_does_not_have_is_left_out():
    names, missing = side_names(("plain", "plain-fused", "huggingface", "checkpointing"), "bfloat16", "mlx")
    assert [str(name) for name in names] == ["ours", "plain float32", "plain autocast", "checkpointing"]
    assert "torch's alone: plain-fused, huggingface" in train_report(Results("cpu", missing), TrainFlags(backend="mlx"))


def test_the_case_fits_the_device_and_the_flags():
    assert (workload("gpt2-124m", "cpu").length, workload("gpt2-124m", "cuda").length) == (256, 1024)
    assert workload("gpt2-124m", "cuda").model.vocab_size % 128 == 0
    changed = workload("nanogpt-char", "cpu", batch_size=3, length=5)
    assert changed.batches(1)[0].inputs.shape == (3, 5)
    with pytest.raises(UserError, match="--seq_len 65"):
        workload("nanogpt-char", "cpu", length=65)


@pytest.mark.parametrize(
    ("who", "backend"), [("ours", "torch"), ("plain", "torch"), ("huggingface", "torch"), ("ours", "mlx")]
)
def test_memory_is_that_of_the_side(who, backend):
    need(who, backend)
    job = TrainMemoryJob(
        who=who, dtype="float32", case="nanogpt-char", device="cpu", compile=False, batch_size=1, seq_len=8, steps=1,
        backend=backend,
    )  # fmt: skip
    found = memory.measure(job) if backend == "mlx" else memory.run(job)  # its process is there soonest
    assert 10 < found.imported <= found.peak


def test_the_loop_is_timed_with_and_without_checkpoints(monkeypatch):
    need("ours")
    saved = []

    save = Checkpoints.save

    def spy(self, *args, **kwargs):
        saved.append(self.folder)
        return save(self, *args, **kwargs)

    monkeypatch.setattr(Checkpoints, "save", spy)
    monkeypatch.setattr(loop, "SAVE_EVERY", 4)
    monkeypatch.setattr(session, "write_report", lambda folder: folder / "report.html")  # takes longer than the steps
    costs = loop.measure(TINY, sides.our_trainer(TINY, STEP), 1, 8, no_wait)
    assert [(cost.side, cost.ratio is None) for cost in costs] == [
        ("bare steps", True), ("loop", False), ("loop with checkpoints", False),
    ]  # fmt: skip
    assert all(cost.step_ms.median > 0 for cost in costs)
    # Of two rounds: one at the end without checkpoints; at the steps 4, 8 and 12 with them.
    assert sorted(saved.count(folder) for folder in set(saved)) == [1, 1, 3, 3]


def test_both_learn_a_text_equally_well(tmp_path, monkeypatch):
    need("plain")
    small = replace(workload("nanogpt-char", "cpu"), batch_size=2, window=16)
    monkeypatch.setattr(convergence, "workload", lambda name, device: small)
    path = tmp_path / "text.txt"
    path.write_text("to be, or not to be: that is the question\n" * 100)
    text = convergence.read(str(path), "cpu")
    names, _ = side_names(("plain", "plain-fused"), "float32")
    ours, plain = convergence.measure(text, names, TrainFlags(device="cpu", iterations=20), lambda _: None)
    assert ours.val_loss == pytest.approx(plain.val_loss, abs=1e-3)
    assert ours.val_loss < 3
    assert sum(batch.tokens for batch in text.validation_batches()) >= 0.9 * len(text.validation)


@pytest.mark.parametrize(("content", "complaint"), [(None, "--text FILE"), ("short", "too short")])
def test_convergence_needs_a_text(tmp_path, content, complaint):
    path = ""
    if content:
        (tmp_path / "text.txt").write_text(content)
        path = str(tmp_path / "text.txt")
    with pytest.raises(UserError, match=complaint):
        convergence.read(path, "cpu")


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_the_parts_that_are_asked_for_are_measured(monkeypatch, backend):
    need("plain", backend)
    monkeypatch.setattr("lm_bench.train.measurement.workload", lambda *_: TINY)
    monkeypatch.setattr("lm_bench.peak.matrix_flops", lambda device: 1e12)
    flags = TrainFlags(
        backend=backend, cases=("nanogpt-char",), peers=("plain",), parts=("step", "forward_backward"),
        rounds=1, steps=1, device="cpu",
    )  # fmt: skip
    results = measure(flags, lambda _: None)
    assert [(row.part, row.side) for row in results.speed] == [
        ("forward_backward", "ours"), ("forward_backward", "plain"), ("step", "ours"), ("step", "plain"),
    ]  # fmt: skip
    assert (results.memory, results.loop, results.convergence) == ([], [], [])
    assert all((row.peak_share is None) == (backend == "mlx") for row in results.speed)


RESULTS = Results(
    device="cpu",
    missing=[],
    peak_flops=1e12,
    speed=[
        Speed("tiny", "step", "ours", ONES, ONES, None, 0.5),
        Speed("tiny", "step", "plain", ONES, ONES, Quartiles(0.5, 0.75, 1), 0.25),
    ],
    proofs=[Proof("tiny", "step", "plain", Agreement(3, 4.0, 3.0, 1e-6, 1e-3))],
    memory=[PeakMemory("tiny", "ours", Memory(100, 300)), PeakMemory("tiny", "plain", Memory(200, 600))],
    loop=[LoopCost("tiny", "bare steps", 8, ONES, None), LoopCost("tiny", "loop", 8, ONES, Quartiles(1, 1.02, 1.1))],
    convergence=[Convergence("ours", 2000, 1.5, 1.8857)],
)


def test_the_report_holds_every_part():
    text = train_report(RESULTS, TrainFlags())
    for words in ("0.750 (0.500-1.000)", "50.0%", "same model: tiny, step", "0.50", "1.020 (1.000-1.100)", "1.8857"):
        assert words in text
    assert "above import" in text
    assert "above import" not in train_report(replace(RESULTS, device="cuda"), TrainFlags())


def exit_of(monkeypatch, *argv):
    monkeypatch.setattr(sys, "argv", ["lm-bench", "train", *argv])
    return cli.main()


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--cases", "gpt-5"], "gpt-5"),
        (["--backend", "jax"], "jax"),
        (["--parts", "steps"], "steps"),
        (["--rounds", "0"], "rounds"),
        (["--loop_steps", "50"], "loop_steps"),
        (["--config", "none.toml"], "none.toml"),
    ],
)
def test_a_wrong_flag_is_one_line(monkeypatch, capsys, argv, complaint):
    assert exit_of(monkeypatch, *argv) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert complaint in err


def test_json_is_all_there_is_on_stdout(monkeypatch, capsys):
    need("ours")
    asked = []

    def measured(flags, say):
        asked.append(flags)
        return RESULTS

    monkeypatch.setattr(commands, "measure_training", measured)
    assert exit_of(monkeypatch, "--json", "--dtype", "bfloat16", "--peers", "plain") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["results"]["speed"][1]["ratio"]["median"] == 0.75
    assert (asked[0].dtype, asked[0].peers) == ("bfloat16", ("plain",))
