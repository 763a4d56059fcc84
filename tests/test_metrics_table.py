"""docs/metrics.md lists every field that a run records, and none that it does not."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lm_core.config import LoopConfig
from lm_core.data.batches import Batch, LengthRule, RandomWindows, frozen_batch
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.interrupts import Interrupts
from lm_core.run.log import RunLog
from lm_core.run.loop import Run, train
from lm_core.run.session import result_of
from lm_core.run.state import RunState

TABLE = (Path(__file__).resolve().parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
LISTED = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", TABLE.partition("| Field of a rollout")[0], re.MULTILINE))
TOKENS = np.arange(200, dtype=np.uint16) % 7


class Still:
    """A trainer that learns nothing and says everything that a trainer may say."""

    def step(self, batch: Batch, lr: float) -> dict[str, Any]:
        return {"loss_nats": 1.0, "grad_norm": 1.0, "grad_norms": np.ones(1)}

    def diagnostics(self) -> dict[str, dict[str, float]]:
        return {"beta2": {"all": 0.5}, "sunspike": {"all": 0.5}}

    def evaluate(self, batch: Batch) -> float:
        return 1.0

    def activation_norms(self, batch: Batch) -> dict[str, float]:
        return {"blocks.0": 1.0}

    def weights(self) -> dict[str, np.ndarray]:
        return {"w": np.ones(3, np.float32)}

    def snapshot(self) -> Callable[[], tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
        return lambda: (self.weights(), {})


def recorded(folder: Path, bits_name: str) -> dict[str, set[str]]:
    """Field -> the kinds of records that have it, in a run with everything switched on."""
    folder.mkdir()
    with RunLog(folder / "metrics.jsonl", 0, 1) as log:
        run = Run(
            trainer=Still(),  # type: ignore[arg-type]
            batches=RandomWindows(TOKENS, 2, LengthRule(4, 4), seed=0),
            evaluation=[frozen_batch(TOKENS, 2, 4, seed=0)],
            learning_rate=lambda _: 0.1,
            config=LoopConfig(max_steps=1, log_norms=True),
            log=log,
            checkpoints=Checkpoints(folder / "checkpoints", 1),
            metadata={},
            bits_name=bits_name,
            bytes_of=lambda batch: batch.tokens,
            perplexity=True,
            flops_per_token=1.0,
            peak_flops=1.0,
        )
        train(run, RunState(), Interrupts())
    found: dict[str, set[str]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for name in record:
            found.setdefault(name, set()).add(record["kind"])
    return found


def test_the_table_lists_every_field_of_the_loop_with_its_records_and_no_other(tmp_path: Path) -> None:
    found = recorded(tmp_path / "a", "bits_per_char") | recorded(tmp_path / "b", "bits_per_token")
    assert found.keys() == LISTED.keys()
    for name, kinds in found.items():
        assert LISTED[name] == "all" or kinds == set(re.findall(r"`(\w+)`", LISTED[name])) - {"test"}, name


def test_the_keys_of_a_result_are_listed() -> None:
    for name in result_of(RunState()):
        assert f"`{name}`" in TABLE
