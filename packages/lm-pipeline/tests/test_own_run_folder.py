"""The folder of a run: only what is its own is written or taken away, and a start that fails leaves none."""

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from lm_core.backend import Backend
from lm_core.errors import UserError
from lm_core.run import session
from lm_core.run.folder import RunFolder
from lm_core.run.plan import Plan
from lm_pipeline.commands import train
from lm_pipeline.commands.train_config import TrainConfig
from lm_pipeline.commands.train_plan import folder_of, plan_run
from lm_pipeline.commands.train_resume import POLICY
from lm_tokenizer import Tokenizer

TABLES: dict[str, Any] = {
    "save_dir": "run",
    "data": {"train": "tokens/train.npy", "validation": "tokens/validation.npy", "tokenizer": "tok"},
    "model": {"seq_len": 16, "d_model": 16, "n_layers": 1, "n_heads": 2},
    "training": {"batch_size": 4, "max_steps": 10, "sample_tokens": 0},
}


RUN = RunFolder(Path("run"))


class FirstStepError(Exception):
    """The run is prepared, and its first step would be taken."""


class Bare:
    """A backend that stands for one until training begins."""

    name = "bare"

    def build(self, *_: object) -> "Bare":
        return self

    def choices(self) -> dict[str, str]:
        return {}

    def describe(self, _: object) -> str:
        return "bare"

    def memory(self, _: object) -> None:
        return None

    def peak_memory(self, _: object) -> int:
        return 1

    def peak_flops(self, _: object) -> None:
        return None

    def snapshot(self) -> None:
        raise FirstStepError


def plan_of(**values: Any) -> Plan:
    config = TrainConfig.parse({**TABLES, **values})
    return plan_run(config, folder_of(config))


def start(plan: Plan) -> None:
    with session.opened(RUN, TrainConfig, POLICY, resume=False):
        session.run(plan, RUN, backend=cast("Backend", Bare()))


def everything(folder: Path) -> dict[Path, bytes | None]:
    """Content, but for the lock, which a folder keeps."""
    paths = [path for path in sorted(folder.rglob("*")) if path.name != "lock"]
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


def failing(error: BaseException) -> Callable[..., Any]:
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
        folder = RunFolder(Path("runs/transformerlm") / name)
        folder.prepare(plan_of().config_toml())
        if saved:
            folder.checkpoints.mkdir()
            (folder.checkpoints / f"{'0' * 40}.metadata").touch()
    assert folder_of(TrainConfig(resume=True)).path == Path("runs/transformerlm/good")


@pytest.mark.parametrize(
    "error", [UserError("wandb does not start"), OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("own", [False, True])
def test_a_start_that_fails_leaves_no_run_and_what_was_there(workplace: Path, error: BaseException, own: bool) -> None:
    if own:  # `--save_dir work --data.tokenizer work/tokenizer`
        shutil.copytree("tok", "run/tokenizer")
        (workplace / "run/tokenizer/notes.txt").write_text("mine")
    before = everything(workplace)
    plan = plan_of(data={**TABLES["data"], "tokenizer": "run/tokenizer" if own else "tok"})
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else UserError):
        start(replace(plan, sinks=failing(error)))
    assert everything(workplace) == before


def test_another_tokenizer_is_not_replaced(workplace: Path) -> None:
    Tokenizer.train(["other words " * 50], 270, [], progress=False).save(workplace / "run/tokenizer")
    before = everything(workplace)
    with pytest.raises(UserError, match="run/tokenizer holds another tokenizer"):
        start(plan_of())
    assert everything(workplace) == before


@pytest.mark.parametrize("error", [errno.EIO, errno.EMFILE, errno.EACCES, None])
def test_a_tokenizer_that_cannot_be_read_is_not_replaced(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, error: int | None
) -> None:
    (workplace / "run/tokenizer").mkdir(parents=True)
    (workplace / "run/tokenizer/tokenizer.json").write_text('{"mine": 1}')
    before = everything(workplace)
    plan, said = plan_of(), "run/tokenizer holds a tokenizer that cannot be read, .*: give another --save_dir"
    with monkeypatch.context() as patch:
        if error:
            patch.setattr(Path, "read_bytes", failing(OSError(error, os.strerror(error))))
        with pytest.raises(UserError, match=said):
            start(plan)
    with pytest.raises(UserError, match=said):
        start(plan)
    assert everything(workplace) == before


def test_a_start_that_was_killed_between_the_files_of_the_tokenizer_is_made_again(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, left = Path.replace, [1]

    def killed(path: Path, target: Path) -> Path:
        if not left:
            raise SystemExit
        left.pop()
        return rename(path, target)

    plan = plan_of()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a kill leaves no time to clear up
        with pytest.raises(SystemExit):
            start(plan)
    assert len(list((workplace / "run/tokenizer").iterdir())) == 1
    assert not RUN.holds_run()
    with pytest.raises(FirstStepError):
        start(plan_of())
    assert RUN.holds_run()
    assert Tokenizer.load("tok").is_saved_in(RUN.tokenizer)


@pytest.mark.parametrize("name", ["tokenizer", "tensorboard", "checkpoints"])
def test_nothing_is_written_through_a_link_out_of_the_folder(workplace: Path, name: str) -> None:
    for folder in ("outside", "run"):
        (workplace / folder).mkdir()
    (workplace / "run" / name).symlink_to("../outside")
    with pytest.raises(UserError, match=f"{name} is a link that leads out of"):
        start(plan_of(logging={"backend": ["console", "tensorboard"]}))
    assert not list((workplace / "outside").iterdir())
    assert not (workplace / "run/config.toml").exists()


def test_a_newer_run_folder_is_refused_by_its_version(workplace: Path) -> None:
    RUN.prepare(plan_of().config_toml())
    config = workplace / "run/config.toml"
    config.write_text("# run folder, format 9\n[[what = nobody]]\n")
    with pytest.raises(UserError, match="run is a run folder of format 9, made by a newer version"):
        train.train(TrainConfig(resume=True, save_dir="run"))
