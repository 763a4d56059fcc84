"""The folder of a run: only what is its own is written or taken away, and a start that fails leaves none."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lm_core.errors import UserError
from lm_core.run.state import RunState
from lm_pipeline.commands import train
from lm_pipeline.commands.train_config import TrainConfig
from lm_pipeline.commands.train_plan import RunPlan, folder_of, plan_run
from lm_pipeline.saved_model import newest_run
from lm_tokenizer import Tokenizer

TABLES: dict[str, Any] = {
    "save_dir": "run",
    "data": {"train": "tokens/train.npy", "validation": "tokens/validation.npy", "tokenizer": "tok"},
    "model": {"seq_len": 16, "d_model": 16, "n_layers": 1, "n_heads": 2},
    "training": {"batch_size": 4, "max_steps": 10, "sample_tokens": 0},
}


def plan_of(**values: Any) -> RunPlan:
    config = TrainConfig.parse({**TABLES, **values})
    return plan_run(config, folder_of(config))


def everything(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "a/b", "..", "n\0ul", "x" * 300])
def test_a_name_of_a_run_leads_nowhere_else(workplace: Path, name: str) -> None:
    config = TrainConfig.parse({**TABLES, "save_dir": "", "logging": {"run_name": name}})
    with pytest.raises(UserError, match=r"logging.run_name: .* cannot be the name of a folder in runs/transformerlm"):
        folder_of(config)
    assert folder_of(config.model_copy(update={"save_dir": "run"})).path == Path("run"), "there it is only shown"


def test_runs_without_a_name_that_start_at_once_get_a_folder_each(workplace: Path) -> None:
    config = TrainConfig.parse({**TABLES, "save_dir": ""})
    assert len({folder_of(config).path for _ in range(5)}) == 5


def test_the_newest_run_is_the_newest_with_a_checkpoint(workplace: Path) -> None:
    for name, saved in (("good", True), ("failed-to-start", False)):
        plan = plan_of(save_dir=f"runs/transformerlm/{name}")
        train.prepare(plan, 0)
        if saved:
            plan.folder.checkpoints.mkdir()
            (plan.folder.checkpoints / f"{'0' * 40}.metadata").touch()
    assert newest_run("--resume").name == "good"


@pytest.mark.parametrize("error", [UserError("wandb does not start"), OSError(errno.ENOSPC, "No space left")])
@pytest.mark.parametrize("own", [False, True])
def test_a_start_that_fails_leaves_no_run_and_what_was_there(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, own: bool
) -> None:
    if own:  # `--save_dir work --data.tokenizer work/tokenizer`
        shutil.copytree("tok", "run/tokenizer")
        (workplace / "run/tokenizer/notes.txt").write_text("mine")
    before = everything(workplace)
    monkeypatch.setattr(train, "_sinks", failing(error))
    plan = plan_of(data={**TABLES["data"], "tokenizer": "run/tokenizer" if own else "tok"})
    with pytest.raises(UserError), plan.folder.hold():
        train.prepare(plan, 0)
    (workplace / "run/lock").unlink(missing_ok=True)
    assert everything(workplace) == before


def test_another_tokenizer_is_not_replaced(workplace: Path) -> None:
    Tokenizer.train(["other words " * 50], 270, [], progress=False).save(workplace / "run/tokenizer")
    before = everything(workplace)
    with pytest.raises(UserError, match="run/tokenizer holds another tokenizer"):
        train.prepare(plan_of(), 0)
    assert everything(workplace) == before


@pytest.mark.parametrize("error", [errno.EIO, errno.EMFILE, errno.EACCES, None])
def test_a_tokenizer_that_cannot_be_read_is_not_replaced(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, error: int | None
) -> None:
    (workplace / "run/tokenizer").mkdir(parents=True)
    (workplace / "run/tokenizer/tokenizer.json").write_text('{"mine": 1}')
    before, plan = everything(workplace), plan_of()
    with monkeypatch.context() as patch:
        if error:
            patch.setattr(Path, "read_bytes", failing(OSError(error, os.strerror(error))))
        with pytest.raises(UserError, match=r"run/tokenizer holds a tokenizer that cannot be read.* move it away"):
            train.prepare(plan, 0)
    assert everything(workplace) == before


def test_a_start_that_was_killed_between_the_files_of_the_tokenizer_is_made_again(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, left = Path.replace, [1]

    def killed(path: Path, target: Path) -> Path:
        if not left:
            raise SystemExit
        left.pop()
        return replace(path, target)

    plan = plan_of()
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(SystemExit):
        train.prepare(plan, 0)
    monkeypatch.setattr(Path, "replace", replace)
    assert len(list((workplace / "run/tokenizer").iterdir())) == 1
    train.prepare(plan_of(), 0)
    assert plan.folder.holds_run()


@pytest.mark.parametrize("name", ["tokenizer", "tensorboard", "checkpoints"])
def test_nothing_is_written_through_a_link_out_of_the_folder(workplace: Path, name: str) -> None:
    for folder in ("outside", "run"):
        (workplace / folder).mkdir()
    (workplace / "run" / name).symlink_to("../outside")
    with pytest.raises(UserError, match=f"{name} is a link that leads out of"):
        train.prepare(plan_of(logging={"backend": ["console", "tensorboard"]}), 0)
    assert not list((workplace / "outside").iterdir())
    assert not (workplace / "run/config.toml").exists()


def test_a_newer_run_folder_is_refused_by_its_version(workplace: Path) -> None:
    train.prepare(plan_of(), 0)
    config = workplace / "run/config.toml"
    config.write_text("# run folder, format 9\n[[what = nobody]]\n")
    with pytest.raises(UserError, match="run is a run folder of format 9, made by a newer version"):
        train.parse_train(TrainConfig, "train", ["--resume", "--save_dir", "run"])


@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT, errno.ENOSPC])
def test_the_end_of_a_run_needs_no_report_sample_or_result(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    plan = plan_of(training={**TABLES["training"], "sample_tokens": 1})
    train.prepare(plan, 0)
    plan.folder.metrics.write_text('{"kind": "train", "step": 1}\n')
    full = failing(OSError(number, os.strerror(number)))
    monkeypatch.setattr(train, "write_whole", full)
    monkeypatch.setattr("lm_core.report.write_whole", full)
    monkeypatch.setattr(train, "_sample", lambda *_: "text")
    train.finish(plan, SimpleNamespace(), RunState(step=1))  # type: ignore[arg-type]
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        f"{name} is not written: {os.strerror(number)}; the run itself is saved"
        for name in ("samples.txt", "report.html", "result.json")
    ]
    assert "--- sample at step 1 ---\ntext" in said.out
