"""Verifying holds a run against what its checkpoints know: config, records, tokenizer, format."""

import json
import re
import shutil

import numpy as np
import pytest

from lm_core.run import checkpoint as checkpoint_module
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.folder import RunFolder
from lm_core.run.log import RunLog
from lm_core.run.resume import Change, History
from lm_pipeline.verify.check import check_run, verify_table
from lm_tokenizer.adapters.characters import CharacterTokenizer

CONFIG = {"seed": 3, "training": {"batch_size": 8, "log_every": 1, "peak_lr": 3e-4}}
TOML = "seed = 3\n\n[training]\nbatch_size = 8\nlog_every = 1\npeak_lr = 0.0003\n"


TOKENIZER = CharacterTokenizer("abc")


def save(run, at, step, loss, **more):
    """A checkpoint of the step after its evaluation."""
    state = {"step": step, "last_val_step": step, "last_val_loss": loss, "best_step": step, "best_val_loss": loss}
    about = {"step": step, "state": state, "config": CONFIG, "log": at.metadata(), "val_loss": loss}
    about |= {"tokenizer": {"kind": "characters", "fingerprint": TOKENIZER.fingerprint}, **more}
    Checkpoints(run.checkpoints, keep=9).save({"w": np.full(3, step, np.float32)}, {}, about)


@pytest.fixture
def run(tmp_path):
    """A run of 6 steps with checkpoints at 3 and 6, as a program leaves it."""
    run = RunFolder(tmp_path / "run")
    run.prepare(TOML)
    TOKENIZER.save(run.path / "tokenizer")
    with RunLog(run.metrics, 0, 6) as log:
        for step in range(1, 7):
            log.record("train", step, {"loss_nats": 3.0 / step, "tokens_per_second": 10.0 + step})
            if step % 3 == 0:
                log.record("eval", step, {"loss_nats": 4.0 / step})
                save(run, log, step, 4.0 / step)
    return run


def said_of(run):
    checked = check_run(run.path)
    return checked.sound, verify_table([checked])


def test_a_whole_run_is_sound_and_says_what_was_checked(run):
    sound, said = said_of(run)
    assert sound
    assert re.search(r"config\.toml .* 4 keys against step 6 +sound", said)
    assert re.search(r"metrics\.jsonl +6 +lines, order, losses +sound", said)
    assert re.search(r"tokenizer .* fingerprint +sound", said)
    assert said.count("hashes, numbers, parent") == 2


def test_a_change_that_was_recorded_is_no_damage(run):
    history = History(6, (), (Change("training.batch_size", 8, 16),), (Change("training.log_every", 1, 2),))
    run.prepare(TOML.replace("batch_size = 8", "batch_size = 16").replace("log_every = 1", "log_every = 2"))
    assert not said_of(run)[0], "until the log has it"
    with RunLog(run.metrics, 6, 9) as log:
        history.record(log)
    assert said_of(run)[0]


def test_a_path_of_other_data_is_no_damage_before_it_is_saved(run):
    history = History(6, (), (Change("seed", "hash", "other"),), (Change("seed", 3, 4),))
    run.prepare(TOML.replace("seed = 3", "seed = 4"))
    with RunLog(run.metrics, 6, 9) as log:
        history.record(log)
    assert said_of(run)[0]


def test_a_config_is_compared_under_today_s_keys_whatever_format_the_checkpoint_has(run, monkeypatch):
    with monkeypatch.context() as patch, RunLog(run.metrics, 6, 9) as log:
        patch.setattr(checkpoint_module, "FORMAT", 1)
        log.record("eval", 7, {"loss_nats": 0.5})
        save(run, log, 7, 0.5, config={**CONFIG, "step": {"grad_clip": 1.0, "dtype": "float32"}})
    today = '\n[step]\ndtype = "float32"\n\n[optimizer]\ngrad_clip = {}\n'
    run.prepare(TOML + today.format(1.0))
    sound, said = said_of(run)
    assert sound, said
    run.prepare(TOML + today.format(2.0))
    assert "optimizer.grad_clip is 2.0, and 1.0 in the checkpoint of step 7" in said_of(run)[1]


def test_the_folders_of_the_sinks_are_of_the_run(run):
    for name in ("tensorboard", "wandb"):
        (run.path / name).mkdir()
    sound, said = said_of(run)
    assert sound
    assert "note:" not in said


def rewritten(run, change):
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    run.metrics.write_text("".join(json.dumps(change(line)) + "\n" for line in lines))


def other_loss(kind, step):
    return lambda line: {**line, "loss_nats": 0.5} if (line["kind"], line["step"]) == (kind, step) else line


DAMAGE = {
    "no tokenizer": (lambda run: shutil.rmtree(run.path / "tokenizer"), "missing, and a model of this run cannot be"),
    "empty tokenizer": (lambda run: [p.unlink() for p in (run.path / "tokenizer").iterdir()], "missing, and a model"),
    "another tokenizer": (
        lambda run: CharacterTokenizer("abd").save(run.path / "tokenizer"),
        "not the one that the checkpoint of step 6 was trained with",
    ),
    "empty config": (lambda run: run.config.write_text(""), "empty"),
    "no config": (lambda run: run.config.unlink(), "missing"),
    "cut config": (
        lambda run: run.config.write_text(TOML.partition("log_every")[0]),
        "training.peak_lr is missing; the checkpoint of step 6 has 0.0003",
    ),
    "edited config": (
        lambda run: run.config.write_text(TOML.replace("seed = 3", "seed = 4")),
        "seed is 4, and 3 in the checkpoint of step 6",
    ),
    "more in the config": (
        lambda run: run.config.write_text("more = 1\n" + TOML),
        "more is 1; the checkpoint of step 6 does not have it",
    ),
    "config of a newer format": (lambda run: run.config.write_text("# run folder, format 99\n" + TOML), "format 99"),
    "training loss": (
        lambda run: rewritten(run, other_loss("train", 2)),
        "its first 4 records are not those that the checkpoint of step 3 was saved with",
    ),
    "validation loss": (
        lambda run: rewritten(run, other_loss("eval", 6)),
        f"the evaluation of step 6 says 0.5, and the checkpoint of step 6 {4 / 6}",
    ),
    "a record left out": (
        lambda run: run.metrics.write_text("".join(run.metrics.read_text().splitlines(True)[1:])),
        "its first 8 records are not those",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_the_checkpoints_know_better_is_damage(run, what):
    harm, complaint = DAMAGE[what]
    harm(run)
    sound, said = said_of(run)
    assert not sound
    assert complaint in said


def test_a_checkpoint_of_a_newer_format_is_damage(run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "FORMAT", 99)
        with RunLog(run.metrics, 6, 9) as log:
            save(run, log, 7, 4 / 6)
    sound, said = said_of(run)
    assert not sound
    assert "is of format 99, made by a newer version of this project" in said


def test_checkpoints_of_before_are_held_to_what_they_know(run):
    for path in run.checkpoints.iterdir():
        path.unlink()
    with RunLog(run.metrics, 6, 6) as log:
        save(run, log, 6, 4 / 6, config=None, log=None)
    sound, said = said_of(run)
    assert sound
    assert re.search(r"config\.toml .* syntax +sound", said)
    assert re.search(r"metrics\.jsonl .* lines, order, validation losses +sound", said)
    rewritten(run, other_loss("eval", 6))
    assert "the evaluation of step 6 says 0.5" in said_of(run)[1]
