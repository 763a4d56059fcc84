"""Commands under torchrun: a rank is killed, all are started again, and the same words resume; text beside a run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.run.folder import RunFolder
from lm_core.run.log import TIMING_FIELDS, read_records

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads the children of a process from /proc"),
]
pytest.importorskip("torch.distributed")
REPOSITORY = Path(__file__).resolve().parents[1]
TEXT = "".join(f"line {i}: the square of {i} is {i * i}\n" for i in range(400))
STEPS = 400
TESTBED_D = (
    f"{REPOSITORY / 'apps/testbed_d'} --text text.txt --steps {STEPS} --d_model 16 --n_layer 1 --n_head 2 --batch 2"
    " --ctx 16 --lmin 16 --lmax 16 --len_bucket 4 --eval_bs 2 --eval_every 100 --save_every 20 --log_every 10"
    " --sample 8"
)
TRANSFORMER_LM = (
    f"{REPOSITORY / 'apps/transformer_lm'} --dataset tinyshakespeare --data_dir text.txt --dim 16 --num_blocks 1"
    f" --num_heads 2 --context_size 16 --batch_size 2 --num_iters {STEPS} --steps_per_eval 100 --steps_per_save 20"
    " --steps_per_report 10 --sample_tokens 8 --save_dir save --new_model"
)
WITH_SOURCE = (
    "-m lm_pipeline.commands.train --source.train text.txt --source.output shards --source.vocab_size 300"
    " --source.validation_fraction 0.3 --source.separator square --source.shard_bytes 4000 --model.seq_len 16"
    " --model.d_model 16 --model.n_layers 1 --model.n_heads 2 --training.batch_size 4 --training.max_steps 20"
    " --training.eval_every 10 --training.log_every 1 --data.eval_tokens 40 --save_dir run"
)


def started(command: str, folder: Path, ranks: int = 2) -> "subprocess.Popen[str]":
    """The command by so many ranks."""
    folder.mkdir()
    (folder / "text.txt").write_text(TEXT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    with (folder / "said").open("w") as said:
        return subprocess.Popen(
            [*launcher, "--max-restarts", "3", *command.split(), "--backend", "torch"],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=said,
            text=True,
        )


def ranks(launcher: int) -> list[int]:
    """Process ids of the ranks that a launcher has started."""
    return [int(pid) for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()]


def the_run(folder: Path) -> RunFolder | None:
    """The only run below a folder; None before it has saved anything."""
    found = {path.parent.parent for path in folder.rglob("checkpoints/*.metadata")}
    assert len(found) <= 1, "a restart has started another run"
    return RunFolder(found.pop()) if found else None


def curve(folder: Path) -> list[dict[str, Any]]:
    run = the_run(folder)
    assert run
    found = read_records(run.metrics)
    return [{key: value for key, value in record.items() if key not in TIMING_FIELDS} for record in found]


@pytest.mark.parametrize("command", [TESTBED_D, TRANSFORMER_LM], ids=["testbed_d", "transformer_lm"])
def test_a_job_of_which_a_rank_is_killed_twice_resumes_by_itself(tmp_path: Path, command: str) -> None:
    whole, job = tmp_path / "whole", tmp_path / "job"
    assert started(command, whole).wait(600) == 0, (whole / "said").read_text()
    launcher = started(command, job)
    for times in (0, 1):
        while launcher.poll() is None and not (the_run(job) and (job / "said").read_text().count("resuming") == times):
            time.sleep(0.02)
        time.sleep(0.3)
        assert launcher.poll() is None, (job / "said").read_text()
        os.kill(ranks(launcher.pid)[times], signal.SIGKILL)
    assert launcher.wait(600) == 0, (job / "said").read_text()
    assert (job / "said").read_text().count("resuming") == 2
    assert curve(job) == curve(whole)


def test_two_ranks_train_on_a_text_that_the_first_encodes_meanwhile(tmp_path: Path) -> None:
    losses = []
    for name, ranks in (("together", 2), ("alone", 1)):
        assert started(WITH_SOURCE, tmp_path / name, ranks).wait(600) == 0, (tmp_path / name / "said").read_text()
        losses.append([record["loss_nats"] for record in curve(tmp_path / name)])
    np.testing.assert_allclose(*losses, rtol=0, atol=1e-5)
