"""Where records go beside the metrics file: flat names, TensorBoard and W&B read back, and sinks that fail."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lm_core.errors import UserError
from lm_core.run.log import RunLog, read_records
from lm_core.run.sinks.console import short_line
from lm_core.run.sinks.sink import flat_metrics
from lm_core.run.sinks.tensorboard import TensorBoardSink
from lm_core.run.sinks.wandb import WandbSink

TRAIN = {
    "loss_nats": 1.5,
    "bits_per_token": 2.25,
    "lr": 0.125,
    "grad_norm": 0.5,
    "tokens_per_second": 1000.0,
    "seconds": 3.0,
    "weight_norm": {"embed": 4.0, "blocks.0": 5.0},
}
EVAL = {"loss_nats": 2.0, "bits_per_byte": 1.0, "perplexity": 8.0, "seconds": 4.0}
FLAT_TRAIN = {
    "metrics.loss": 1.5,
    "metrics.bits_per_token": 2.25,
    "metrics.lr": 0.125,
    "metrics.grad_l2_norm": 0.5,
    "metrics.tokens_per_second": 1000.0,
    "metrics.seconds": 3.0,
    "metrics.weight_norm.embed": 4.0,
    "metrics.weight_norm.blocks.0": 5.0,
}
FLAT_EVAL = {
    "metrics.val_loss": 2.0,
    "metrics.val_bits_per_byte": 1.0,
    "metrics.val_perplexity": 8.0,
    "metrics.seconds": 4.0,
}


class Told:
    """A sink that notes what it is told, and fails at it if asked."""

    def __init__(self, error: Exception | None = None):
        self.error = error
        self.heard: list[tuple[object, ...]] = []

    def _hear(self, *what: object) -> None:
        self.heard.append(what)
        if self.error:
            raise self.error

    def record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        self._hear("record", kind, step, dict(values))

    def saved(self, metadata: Path, step: int, best: bool) -> None:
        self._hear("saved", metadata.name, step, best)

    def close(self, failed: bool) -> None:
        self._hear("close", failed)


def test_a_record_becomes_flat_under_one_set_of_names() -> None:
    assert flat_metrics("train", TRAIN) == FLAT_TRAIN
    assert flat_metrics("eval", EVAL) == FLAT_EVAL
    assert flat_metrics("eval", {"text": "words", "none": None, "many": [1]}) == {}


def test_the_console_prints_the_records_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(tmp_path / "metrics.jsonl", 0, 10) as log:
        log.record("train", 1, TRAIN)
        log.record("eval", 1, EVAL)
    assert capsys.readouterr().out == (tmp_path / "metrics.jsonl").read_text()
    assert read_records(tmp_path / "metrics.jsonl")[0] == {"kind": "train", "step": 1, **TRAIN}


def test_on_a_terminal_a_record_is_one_short_line() -> None:
    line = short_line("train", 1200, {"loss_nats": 1.25, "lr": 3e-4, "grad_norm": 1.0, "tokens_per_second": 12345.6})
    assert line == "step   1,200  train  loss 1.2500  lr 3.00e-04  12,346 tokens/s"
    assert (
        short_line("test", 7, {"loss_nats": 1.0, "perplexity": 2.718})
        == "step       7  test   loss 1.0000  perplexity 2.72"
    )


@pytest.mark.parametrize("failed", [False, True])
def test_sinks_are_told_everything_and_how_it_ended(tmp_path: Path, failed: bool) -> None:
    sink = Told()
    try:
        with RunLog(tmp_path / "metrics.jsonl", 0, 10, [sink]) as log:
            log.record("train", 1, TRAIN)
            log.saved(tmp_path / "a.metadata", 1, True)
            if failed:
                raise KeyError
    except KeyError:
        pass
    assert sink.heard == [("record", "train", 1, TRAIN), ("saved", "a.metadata", 1, True), ("close", failed)]


def test_a_sink_that_fails_says_so_once_and_stops_neither_the_run_nor_the_other_sinks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing, other = Told(OSError("network is\nunreachable")), Told()
    with RunLog(tmp_path / "metrics.jsonl", 0, 10, [failing, other]) as log:
        log.record("train", 1, TRAIN)
        log.saved(tmp_path / "a.metadata", 1, True)
    said = capsys.readouterr().err
    assert said == "Told: network is unreachable; the run continues\n"
    assert [what[0] for what in other.heard] == [what[0] for what in failing.heard] == ["record", "saved", "close"]
    assert len(read_records(tmp_path / "metrics.jsonl")) == 1


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for module in [*sys.modules, name]:
        if module.split(".")[0] == name:
            monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"{name} is not installed: pip install {name}$"):
        TensorBoardSink(tmp_path, 0) if name == "tensorboard" else WandbSink(tmp_path, "p", {})


def test_the_libraries_are_loaded_only_when_asked_for() -> None:
    code = "import sys, lm_core.run.sinks.wandb, lm_core.run.sinks.tensorboard, lm_core.run.loop\n"
    code += "print({'wandb', 'tensorboard'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


# TensorBoard


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_reads_the_flat_scalars(tmp_path: Path) -> None:
    with RunLog(tmp_path / "metrics.jsonl", 0, 10, [TensorBoardSink(tmp_path, 0)]) as log:
        log.record("train", 1, TRAIN)
        log.record("eval", 1, EVAL)
        log.record("train", 2, TRAIN | {"loss_nats": 1.25})
    shown = scalars(tmp_path)
    assert set(shown) == {*FLAT_TRAIN, *FLAT_EVAL}
    assert shown["metrics.loss"] == [(1, 1.5), (2, 1.25)]
    assert shown["metrics.val_loss"] == [(1, 2.0)]
    assert shown["metrics.weight_norm.blocks.0"] == [(1, 5.0), (2, 5.0)]


def test_tensorboard_shows_the_steps_that_a_resumed_run_repeats_once(tmp_path: Path) -> None:
    killed = TensorBoardSink(tmp_path, 0)
    for step in (1, 2, 3, 4):
        killed.record("train", step, {"loss_nats": 1.0})
    killed.close(failed=True)
    again = TensorBoardSink(tmp_path, 2)
    for step in (3, 4, 5):
        again.record("train", step, {"loss_nats": 2.0})
    again.close(failed=False)
    assert scalars(tmp_path) == {"metrics.loss": [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]}


def test_a_folder_that_tensorboard_cannot_write_to_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*tensorboard"):
        TensorBoardSink(tmp_path, 0)


# W&B

PROGRAM = """
import sys
from pathlib import Path
from lm_core.run.log import RunLog
from lm_core.run.sinks.wandb import WandbSink

folder = Path(sys.argv[1])
for start in (0, 2):
    sink = WandbSink(folder, "a-project", {"model": {"d_model": 3}}, name="a-run", tokenizer=folder / "tokenizer")
    with RunLog(folder / "metrics.jsonl", start, 9, [sink]) as log:
        for step in range(start + 1, start + 4):
            log.record("train", step, {"loss_nats": 1.5, "tokens_per_second": 1.0})
        log.record("eval", step, {"loss_nats": 1.25})
        log.record("train", 1, {"loss_nats": 9.0, "tokens_per_second": 1.0})  # online, a resumed run goes back
        log.saved(folder / "0123.metadata", step, best=start > 0)
"""


def test_wandb_takes_records_and_files_offline_and_a_resumed_run_goes_on_in_the_same_one(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    for name in ("tokenizer/vocab.json", "tokenizer/merges.txt", "0123.metadata", "0123.safetensors"):
        (tmp_path / name).write_text(name)
    settings = {"WANDB_MODE": "offline", "WANDB_CACHE_DIR": str(tmp_path / "c"), "WANDB_DATA_DIR": str(tmp_path / "d")}
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, "a step that goes back is no mistake"
    assert "the run continues" not in done.stderr
    identity = (tmp_path / "wandb_id.txt").read_text().strip()
    first, second = (path.read_bytes() for path in sorted(tmp_path.glob(f"wandb/offline-run-*/run-{identity}.wandb")))
    for data in (first, second):
        for word in ("a-project", "a-run", "d_model", "metrics.loss", "metrics.val_loss"):
            assert word.encode() in data
        for word in (f"checkpoint-{identity}", "0123.metadata", "0123.safetensors", "latest"):
            assert word.encode() in data
    assert b"best" in second
    assert b"best" not in first
    assert b"merges.txt" in first
    assert b"merges.txt" not in second, "the tokenizer is logged once"


TEXTS = """
import sys
from pathlib import Path
from lm_core.run.sinks.wandb import WandbTexts

texts = WandbTexts(Path(sys.argv[1]), "a-project", {"seed": 7})
texts.close([{"text.output": "caf\\u00e9 \\ud83d", "metrics.tokens": 3}, {"text.output": "b", "metrics.tokens": 4}])
"""


def test_wandb_takes_the_texts_of_inference_offline_as_one_artifact(tmp_path: Path) -> None:
    settings = {"WANDB_MODE": "offline", "WANDB_CACHE_DIR": str(tmp_path / "c"), "WANDB_DATA_DIR": str(tmp_path / "d")}
    command = [sys.executable, "-W", "error", "-c", TEXTS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    [log] = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    for word in ("a-project", "inference", "outputs-", "outputs.jsonl", "metrics.tokens", "seed"):
        assert word.encode() in log.read_bytes()
    [staged] = [path for path in tmp_path.rglob("*") if path.is_file() and b"text.output" in path.read_bytes()]
    assert [json.loads(line)["metrics.tokens"] for line in staged.read_text().splitlines()] == [3, 4]
