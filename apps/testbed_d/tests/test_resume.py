"""A resumed Testbed D is the run that it was: what it stands on is fixed, what it changes is recorded."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lm_core.run.checkpoint import Checkpoints
from lm_core.run.resume import values_of
from lm_core.run.session import PEAK_MEMORY
from testbed_d import cli
from testbed_d.flags import Flags
from testbed_d.resume_policy import POLICY

SMALL = "--d_model 8 --n_layer 1 --n_head 1 --batch 2 --ctx 16 --lmin 8 --lmax 16 --len_bucket 8 --eval_bs 2"


def test_every_flag_has_a_decision() -> None:
    assert POLICY.problems(Flags) == []
    assert {key: POLICY.of(key) for key in ("val_frac", "seed", "opt")} == dict.fromkeys(
        ("val_frac", "seed", "opt"), "refused"
    )


Call = Callable[[str], tuple[int, str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run in a folder of its own, with its text."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("testbed")
    (folder / "text.txt").write_text("0123456789 and some words to make it long enough\n" * 40)
    flags = f"--text {folder}/text.txt --steps 6 {SMALL} --backend torch --sample 5 --save_dir {folder}/run"
    cli.run(flags.split())
    return folder


@pytest.fixture
def call(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs the program beside a copy of the complete run; returns its exit code and what it said."""
    shutil.copytree(trained / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)

    def run(words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["testbed_d", *words.split()])
        return cli.main(), capsys.readouterr().err

    return run


def content() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path("run").rglob("*") if path.is_file() and path.name != "lock"}


def test_a_complete_run_without_its_end_gets_that_alone(call: Call) -> None:
    before = content()
    for name in ("samples.txt", "result.json"):  # as when it is killed between its last save and these
        Path("run", name).unlink()
    assert call("--resume --save_dir run --lr 1e-2")[0] == 0
    after = content()
    rewritten = {"run/samples.txt", "run/report.html", "run/result.json"}
    assert {name for name in after if after[name] != before[name]} <= rewritten
    assert after.keys() == before.keys()
    was, now = (json.loads(files["run/result.json"]) for files in (before, after))
    assert was | {PEAK_MEMORY: 0} == now | {PEAK_MEMORY: 0}


@pytest.mark.parametrize("words", ["", "--steps 6", "--steps 3", "--lr 1e-2 --log_every 1"])
def test_a_complete_run_says_so_and_stays_as_it_is(call: Call, words: str) -> None:
    before = content()
    code, said = call(f"--save_dir run --resume {words}")
    assert code == 0
    assert "run is complete at step 6; nothing was changed" in said
    assert content() == before


@pytest.mark.parametrize("words", ["--val_frac 0.2", "--seed 3", "--steps 9 --fixed_eval_seed 1"])
def test_what_a_run_is_compared_by_is_refused(call: Call, words: str) -> None:
    before = content()
    code, said = call(f"--save_dir run --resume {words}")
    assert code == 2
    assert f"{words.split()[-2].removeprefix('--')} is " in said
    assert "this is fixed for a run" in said
    assert content() == before


def test_what_is_changed_is_in_the_checkpoint_the_log_and_the_report(call: Call) -> None:
    code, said = call("--save_dir run --resume --steps 8 --lr 1e-2 --log_every 1")
    assert code == 0
    assert "changed from step 7 on: steps 6 -> 8; lr 0.0003 -> 0.01" in said
    assert "learning rate: 0.0003 at step 6, 0.01 at step 7, 0.01 at step 8" in said
    metadata = Checkpoints(Path("run/checkpoints")).newest_metadata()
    assert [(entry["step"], entry["key"], entry["to"]) for entry in metadata["history"]] == [
        (6, "steps", 8),
        (6, "lr", 0.01),
    ]
    assert metadata["config"]["steps"] == 8
    records = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [r["changed"] for r in records if r["kind"] == "resume"] == [{"steps": [6, 8], "lr": [3e-4, 1e-2]}]
    page = Path("run/report.html").read_text()
    assert "Changed by resumes" in page
    assert "0.0003 → 0.01" in page
    assert call("--save_dir run --resume --steps 9")[0] == 0
    assert len(Checkpoints(Path("run/checkpoints")).newest_metadata()["history"]) == 3


@pytest.mark.parametrize("edit", [lambda toml: toml.replace("lr = 0.0003", "lr = 0.5"), lambda toml: ""])
def test_an_edited_config_is_named_and_mended_and_not_believed(call: Call, edit: Callable[[str], str]) -> None:
    config = Path("run/config.toml")
    right = config.read_text()
    config.write_text(edit(right))
    code, said = call("--save_dir run --resume --steps 7")
    assert code == 0
    assert "run/config.toml differs from what the run was trained with (" in said
    assert ("lr 0.5 instead of 0.0003" in said) or ("d_model 256 instead of 8" in said)
    assert config.read_text() == right.replace("steps = 6", "steps = 7")


def test_a_run_of_before_configs_were_recorded_resumes_by_its_config_file(call: Call) -> None:
    checkpoints = Checkpoints(Path("run/checkpoints"))
    for path in checkpoints.folder.glob("*.metadata"):
        old = checkpoints.read(path)
        metadata = {
            key: old.metadata[key]
            for key in old.metadata
            if key not in ("config", "history", "about", "log", "weights")
        }
        checkpoints.save(old.weights, old.optimizer_state, metadata)
    code, said = call("--save_dir run --resume --steps 7")
    assert code == 0
    assert "changed from step 7 on: steps 6 -> 7" in said
    assert values_of(Flags.parse(checkpoints.newest_metadata()["config"])) == values_of(Flags.load("run/config.toml"))
