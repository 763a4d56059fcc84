"""Training on what a checker says of a model's own answers: what it starts from, resumes to, and refuses."""

import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.errors import UserError
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.folder import RunFolder
from lm_core.run.log import TIMING_FIELDS, read_records
from rlvr import pretrain, train
from rlvr.demonstrations import other
from rlvr.problems import TaskProblems
from rlvr.saved import config_of
from rlvr.tasks.registry import mixture
from rlvr.vocabulary import END_ID, decode, encode

APP = Path(__file__).resolve().parents[1]
BACKENDS = [name for name in ("torch", "mlx") if find_spec(name)]
SMALL = (
    "--prompts 3 --samples 4 --answer_length 6 --updates 2 --save_every 2 --steps 8 --lr 1e-2 --length_reward 1"
    " --backend"
)
pytestmark = pytest.mark.skipif(not BACKENDS, reason="no backend is installed")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has seen a few demonstrations of one-digit sums."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    small = "--tasks add --max_level 1 --d_model 16 --n_layers 1 --n_heads 2 --seq_len 20 --batch_size 16 --steps 40"
    pretrain.APP.run([*small.split(), "--eval_batches", "0", "--backend", BACKENDS[0], "--save_dir", str(folder)])
    return folder


def run(pretrained: Path, folder: Path, *more: str, backend: str = BACKENDS[0]) -> list[dict[str, Any]]:
    """The records of a run, or of one that is resumed, without what a clock says."""
    own = ["--resume"] if RunFolder(folder).holds_run() else ["--pretrained", str(pretrained), *SMALL.split(), backend]
    train.APP.run([*own, "--save_dir", str(folder), *more])
    records = read_records(folder / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key not in TIMING_FIELDS} for record in records]


def arrays(folder: Path) -> dict[str, bytes]:
    found = Checkpoints(RunFolder(folder).checkpoints).newest(pytest.fail)
    assert found
    return {name: array.tobytes() for name, array in (found.weights | found.optimizer_state).items()}


@pytest.mark.parametrize("algorithm", ["reinforce", "rloo", "grpo", "dr_grpo", "rejection", "supervised"])
def test_every_algorithm_trains_what_was_pretrained(pretrained: Path, tmp_path: Path, algorithm: str) -> None:
    records = run(pretrained, tmp_path / "run", "--algorithm", algorithm, "--steps", "2")
    assert [record["step"] for record in records] == [1, 2]
    assert ("reward" in records[0]) == (algorithm != "supervised")
    start, end = (
        Checkpoints(RunFolder(path).checkpoints).newest(pytest.fail) for path in (pretrained, tmp_path / "run")
    )
    assert start
    assert end
    moved = [np.abs(end.weights[name] - array).max() for name, array in start.weights.items()]
    assert 0 < max(moved) < 0.1
    assert end.metadata["config"]["tasks"] == ["add"]
    assert "add " in (tmp_path / "run" / "samples.txt").read_text()


def test_a_run_that_is_killed_within_a_rollout_is_resumed_to_the_bit(pretrained: Path, tmp_path: Path) -> None:
    """SIGKILL as soon as some steps are logged, wherever the process is then."""
    backend = BACKENDS[-1]  # MLX starts soonest
    words = ["--pretrained", str(pretrained), *SMALL.split(), backend, "--steps", "40", "--save_dir"]
    expected = run(pretrained, tmp_path / "whole", "--steps", "40", backend=backend)
    killed, environment = tmp_path / "killed", {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, str(APP), "train", *words, str(killed)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
    ) as process:  # fmt: skip
        while process.poll() is None and len(_lines(killed)) < 7:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert run(pretrained, killed, backend=backend) == expected
    assert arrays(killed) == arrays(tmp_path / "whole")


def _lines(folder: Path) -> list[str]:
    path = folder / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def test_what_a_resume_may_not_change_is_refused(pretrained: Path, tmp_path: Path) -> None:
    assert train.POLICY.problems(train.TrainFlags) == []
    run(pretrained, tmp_path / "run", "--steps", "4")
    with pytest.raises(UserError, match="samples is 4 in the run and 5 here"):
        run(pretrained, tmp_path / "run", "--samples", "5")
    other = shutil.copytree(pretrained, tmp_path / "moved")
    run(pretrained, tmp_path / "run", "--steps", "6", "--pretrained", str(other))


def test_a_pretrained_run_that_was_stopped_early_is_reported(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = train.TrainFlags(pretrained=str(pretrained), backend="torch")
    for steps, said in ((40, ""), (4000, "was stopped at step 40 of 4,000; to its end: uv run apps/rlvr pretrain")):
        monkeypatch.setattr(train, "config_of", lambda path, steps=steps: {**config_of(path), "steps": steps})
        capsys.readouterr()
        train.plan(flags, RunFolder(tmp_path / "run"))
        errors = capsys.readouterr().err
        assert said in errors
        assert bool(said) == bool(errors)
    train.plan(flags.model_copy(update={"resume": True}), RunFolder(tmp_path / "run"))
    assert capsys.readouterr().err == ""


def test_of_pretrained_seeds_a_run_takes_its_own(pretrained: Path, tmp_path: Path) -> None:
    shutil.copytree(pretrained, tmp_path / "many" / "seed-3")
    flags = train.TrainFlags(pretrained=str(tmp_path / "many"), seed=3, backend="torch")
    assert train.plan(flags, RunFolder(tmp_path / "run")).config.model_dump()["pretrained"].endswith("seed-3")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--samples 1", "group_size 1"),
        ("--answer_length 16", "do not fit into the model's context of 20"),
        ("--steps 3", "3 steps: give a multiple of the 2 steps"),
        ("--save_every 5", "5 steps between two saves: give a multiple of the 2"),
        ("--pretrained nowhere", "pretrained: there is no folder nowhere"),
        ("--max_level 9", "levels 1 to 8"),
    ],
)
def test_mistakes_are_one_line(pretrained: Path, tmp_path: Path, words: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        run(pretrained, tmp_path / "run", *words.split())
    assert "\n" not in str(caught.value)


def test_a_run_of_another_vocabulary_is_refused(pretrained: Path, tmp_path: Path) -> None:
    from testbed_d import cli

    (tmp_path / "text.txt").write_text("0123456789 and some words to make it long enough\n" * 40)
    small = "--steps 1 --d_model 8 --n_layer 1 --n_head 1 --batch 2 --ctx 16 --lmin 8 --lmax 16 --eval_bs 2 --sample 0"
    cli.run([*small.split(), "--text", str(tmp_path / "text.txt"), "--save_dir", str(tmp_path / "text_run")])
    with pytest.raises(UserError, match="another vocabulary than this app"):
        run(tmp_path / "text_run", tmp_path / "run")


def test_a_slip_leaves_a_number_a_number() -> None:
    draw = np.random.default_rng(0)
    assert {len(str(int(other(draw, "-4")))) for _ in range(50)} <= {1, 2}


def test_rewards_are_the_checker_s_and_add_up_as_they_are_weighted() -> None:
    problems = TaskProblems(mixture(("add",), 1, 1, 20), 0, {"format": 0.25, "length": 0.5})
    prompts = [decode(ids) for ids in problems.prompts(6, 2)]
    assert prompts == [decode(ids) for ids in problems.prompts(0, 8)[6:]], "a problem is a function of its number"
    right = [str(sum(map(int, prompt.removeprefix("add ").removesuffix("=").split("+")))) for prompt in prompts]
    answers = [[[*encode(text), END_ID], [*encode("x" * len(text)), END_ID], encode(text)] for text in right]
    found = problems.rewards(6, answers)
    assert found["correct"].tolist() == [[1, 0, 0]] * 2
    assert found["format"].tolist() == [[1, 0, 0]] * 2
    assert found["reward"].tolist() == [[1.75, 0.5, 0.5]] * 2
