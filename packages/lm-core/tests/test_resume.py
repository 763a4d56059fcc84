"""What a resume may change: nothing that a run stands on, and all else with a record; config.toml proves nothing."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from lm_core.config import AdamWConfig, Config, MuonConfig, ScheduleConfig
from lm_core.errors import UserError
from lm_core.run.checkpoint import Checkpoint
from lm_core.run.folder import RunFolder
from lm_core.run.log import RunLog, read_records
from lm_core.run.resume import (
    Change,
    History,
    Policy,
    compare_config_file,
    config_of,
    flat,
    keys_of,
    rate_change,
    recorded,
    resumed_as,
    values_of,
)


class Inner(Config):
    steps: int = 10
    rate: float = 0.1


class Whole(Config):
    seed: int = 0
    inner: Inner = Inner()
    optimizer: AdamWConfig | MuonConfig = Field(AdamWConfig(), discriminator="name")
    mode: Literal["a", "b"] = "a"
    log_every: int = 5
    resume: bool = False
    text: str | None = None


OPTIMIZER = " ".join(key for key in keys_of(Whole) if key.startswith("optimizer."))
POLICY = Policy(
    refused=f"seed mode {OPTIMIZER}", recorded="inner.steps inner.rate text", no_effect="log_every", call="resume"
)


def metadata(step: int = 7, **config: Any) -> dict[str, Any]:
    return {"step": step, "config": Whole.parse(config).model_dump(mode="json")}


def history(before: dict[str, Any], now: dict[str, Any], step: int = 7) -> History:
    return resumed(before, now, metadata(step, **before))


def resumed(before: dict[str, Any], now: dict[str, Any], known: dict[str, Any]) -> History:
    checkpoint = Checkpoint(Path("x"), {}, {}, known)
    return resumed_as(POLICY, Whole.parse(before), Whole.parse(now), checkpoint, "leave it out")


def base_of(folder: RunFolder, known: dict[str, Any] | None, *, resumed: bool = True) -> dict[str, Any]:
    checkpoint = Checkpoint(Path("x"), {}, {}, known) if known else None
    return recorded(Whole, POLICY, folder, checkpoint, resumed=resumed).base


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.prepare(Whole().to_toml())
    return run


def log_of(folder: RunFolder, *histories: History) -> None:
    for each in histories:
        with RunLog(folder.metrics, each.step, 20) as log:
            each.record(log)


def test_keys_are_those_of_all_tables_and_of_all_members_of_a_union() -> None:
    keys = keys_of(Whole)
    assert {"seed", "inner.steps", "optimizer.name", "optimizer.beta2", "optimizer.ns_steps", "text"} <= set(keys)
    assert "inner" not in keys
    assert len(keys) == len(set(keys))


def test_a_key_that_nobody_decided_on_is_a_problem_and_refused() -> None:
    assert POLICY.problems(Whole) == []

    class Grown(Whole):
        new: int = 1

    assert POLICY.problems(Grown) == ["new: no decision"]
    assert POLICY.of("new") == "refused"
    wrong, twice = f"seed mode gone {OPTIMIZER}", "inner.steps inner.rate text seed"
    odd = Policy(refused=wrong, recorded=twice, no_effect="log_every", call="resume")
    assert odd.problems(Whole) == ["gone: no such key", "seed: two decisions"]


def test_what_a_run_stands_on_is_refused_by_name() -> None:
    with pytest.raises(
        UserError, match="seed is 0 in the run and 3 here; mode is a in the run and b here: leave it out"
    ):
        history({}, {"seed": 3, "mode": "b", "log_every": 1})


def test_what_changes_results_is_told_and_kept_and_what_does_not_is_neither() -> None:
    found = history({}, {"inner": {"steps": 20}, "log_every": 1, "resume": True})
    assert found.changes == (Change("inner.steps", 10, 20),)
    assert found.settings == (Change("log_every", 5, 1),)
    assert list(found.lines()) == ["changed from step 8 on: inner.steps 10 -> 20"]
    assert found.entries == [{"step": 7, "key": "inner.steps", "from": 10, "to": 20}]
    later = resumed({}, {"inner": {"rate": 0.2}}, {"step": 9, "history": found.entries})
    assert later.entries == [*found.entries, {"step": 9, "key": "inner.rate", "from": 0.1, "to": 0.2}]
    assert list(history({}, {"log_every": 1}).lines()) == []


def test_the_log_has_a_change_once_and_the_last_word_on_it(folder: RunFolder) -> None:
    log_of(folder, history({}, {}))
    assert read_records(folder.metrics) == []
    change = history({}, {"inner": {"steps": 20}, "log_every": 1})
    log_of(folder, change, change)
    expected = {"kind": "resume", "step": 7, "changed": {"inner.steps": [10, 20]}, "settings": {"log_every": [5, 1]}}
    assert read_records(folder.metrics) == [expected]
    log_of(folder, history({}, {}))
    assert read_records(folder.metrics)[-1] == {"kind": "resume", "step": 7, "changed": {}, "settings": {}}


def test_the_checkpoints_config_is_the_base_whatever_config_toml_says(folder: RunFolder) -> None:
    folder.config.write_text("seed = 9\n")
    base = base_of(folder, metadata(seed=3, inner={"steps": 12}))
    assert values_of(Whole.parse(base)) == values_of(Whole.parse({"seed": 3, "inner": {"steps": 12}}))
    folder.config.unlink()
    assert base_of(folder, metadata(seed=3))["seed"] == 3


def test_a_change_that_no_checkpoint_has_yet_is_part_of_the_base(folder: RunFolder) -> None:
    log_of(folder, history({}, {"inner": {"steps": 20}, "log_every": 1, "text": "x"}))
    assert flat(base_of(folder, metadata())) == values_of(
        Whole.parse({"inner": {"steps": 20}, "log_every": 1, "text": "x"})
    )
    assert base_of(folder, metadata(), resumed=False)["inner"]["steps"] == 10
    assert base_of(folder, metadata(step=8))["inner"]["steps"] == 10, "a later checkpoint knows all"
    assert base_of(folder, metadata(step=4))["inner"]["steps"] == 20, "an older one has to be used instead"


def test_a_checkpoint_without_a_config_leaves_config_toml_to_be_believed(folder: RunFolder) -> None:
    folder.config.write_text("seed = 9\n")
    assert base_of(folder, {"step": 3})["seed"] == 9
    assert base_of(folder, None)["seed"] == 9
    assert config_of(Whole, {"step": 3}) is None
    with pytest.raises(UserError, match="the config in the checkpoint: unknown key 'dataset'"):
        config_of(Whole, {"step": 3, "config": {"dataset": "ptb"}})


def test_a_folder_of_a_newer_format_is_refused(folder: RunFolder) -> None:
    folder.config.write_text("# run folder, format 999\n")
    with pytest.raises(UserError, match="of format 999, made by a newer version"):
        base_of(folder, metadata())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda toml: toml.replace("seed = 3", "seed = 4"), "(seed 4 instead of 3), and is not used;"),
        (lambda toml: toml.partition("rate = ")[0], "inner.rate 0.1 instead of 0.5"),
        (lambda toml: "", "(seed 0 instead of 3, inner.rate 0.1 instead of 0.5), and is not used;"),
        (lambda toml: toml[:-4] + '"', "is not valid TOML"),
        (lambda toml: "hue = 1\n", "unknown key 'hue'"),
        (None, "cannot read"),
    ],
)
def test_a_config_toml_that_was_edited_or_cut_is_named_by_its_key(folder: RunFolder, change: Any, said: str) -> None:
    config = {"seed": 3, "inner": {"rate": 0.5}}
    folder.config.write_text(Whole.parse(config).to_toml())
    base = base_of(folder, metadata(**config))
    assert compare_config_file(POLICY, Whole, folder, base) is None
    if change:
        folder.config.write_text(change(folder.config.read_text()))
    else:
        folder.config.unlink()
    line = compare_config_file(POLICY, Whole, folder, base)
    assert line
    assert said in line
    assert "\n" not in line


def test_a_bend_of_the_learning_rate_is_told_with_its_numbers() -> None:
    cosine = ScheduleConfig(kind="cosine", peak_lr=2e-3, warmup_steps=50, max_steps=600, min_factor=0.1)
    stretched = cosine.model_copy(update={"max_steps": 2000})
    said = rate_change(cosine, stretched, 600, 2000)
    assert said == "learning rate: 0.0002 at step 600, 0.00167 at step 601, 0.0002 at step 2000"
    assert rate_change(cosine, cosine, 500, 600) is None
    floor = "learning rate: 0.0002 at step 600, 0.0002 at step 601, 0.0002 at step 2000"
    assert rate_change(cosine, cosine, 600, 2000) == floor, "the schedule is over, and the run goes on"
    constant = ScheduleConfig()
    assert rate_change(constant, constant.model_copy(update={"max_steps": 9}), 5, 9) is None
    warm = constant.model_copy(update={"warmup_steps": 10})
    assert rate_change(constant, warm, 5, 9) == "learning rate: 0.0003 at step 5, 0.00018 at step 6, 0.00027 at step 9"
    assert rate_change(constant, warm, 0, 9) is None, "nothing has been trained yet"


def test_a_checkpoint_knows_the_log_before_it(tmp_path: Path) -> None:
    """The number of records and their digest, from whatever place the log was opened."""
    path = tmp_path / "metrics.jsonl"
    with RunLog(path, 0, 10) as log:
        log.record("train", 1, {"loss_nats": 1.5, "tokens_per_second": 1.0})
        first = log.metadata()
        log.record("train", 2, {"loss_nats": 1.25, "tokens_per_second": 1.0})
        both = log.metadata()
    assert (first["records"], both["records"]) == (1, 2)
    assert first["sha1"] != both["sha1"]
    for start, expected in ((1, first), (2, both)):
        copy = tmp_path / f"{start}.jsonl"
        copy.write_bytes(path.read_bytes())
        with RunLog(copy, start, 10) as log:
            assert log.metadata() == expected
    with RunLog(tmp_path / "again.jsonl", 0, 10) as log:
        log.record("train", 1, {"loss_nats": 1.5, "tokens_per_second": 7.0, "seconds": 3.0})
        assert log.metadata() == first, "an equal run has an equal log, but for its times"
    assert json.loads(json.dumps(first)) == first
