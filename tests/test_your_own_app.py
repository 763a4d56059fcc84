"""The app of docs/your_own_app.md: short, and all that the page says of it is so."""

import re
import shlex
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lm_core.cli import parse_flags
from lm_core.errors import UserError
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.folder import RunFolder
from lm_pipeline.commands.infer import infer
from lm_pipeline.generation.config import InferConfig
from lm_pipeline.verify.check import check_run

PAGE = Path(__file__).resolve().parents[1] / "docs" / "your_own_app.md"
[SOURCE] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
SMALL = "--text text.txt --batch 2 --width 8 --length 8 --save_dir my_run"


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("a short text, over and over\n" * 60)
    module = ModuleType("my_app")
    monkeypatch.setitem(sys.modules, "my_app", module)
    exec(compile(SOURCE, "my_app.py", "exec"), module.__dict__)
    return module


def test_it_is_short() -> None:
    assert len(SOURCE.splitlines()) < 110


def test_its_runs_are_resumed_sampled_and_verified(app: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    app.APP.run(f"{SMALL} --steps 20".split())
    config = Path("my_run/config.toml")
    config.write_text(config.read_text().replace("steps = 20", "steps = 25"))
    app.APP.run(f"{SMALL} --steps 30 --resume".split())
    assert Checkpoints(Path("my_run/checkpoints")).newest_metadata()["step"] == 30
    said = capsys.readouterr().err
    assert "changed from step 21 on: steps 20 -> 30" in said
    assert "config.toml" in said.split("resuming")[0]
    assert infer(InferConfig(checkpoint="my_run", prompt=("a ",), max_new_tokens=5)) == 0
    assert capsys.readouterr().out.startswith("a ")
    checked = check_run(Path("my_run"))
    assert checked.sound, checked
    assert "tokenizer" in {file.name for file in checked.files}


def test_a_run_that_was_killed_before_it_saved_is_resumed_with_its_own_flags(app: ModuleType) -> None:
    app.APP.run(f"{SMALL} --steps 3".split())
    shutil.rmtree("my_run/checkpoints")
    app.APP.run(["--resume", "--save_dir", "my_run"])
    metadata = Checkpoints(Path("my_run/checkpoints")).newest_metadata()
    assert (metadata["step"], metadata["config"]["width"]) == (3, 8)


def test_the_command_that_resumes_it_names_the_folder_whatever_it_is_called(app: ModuleType) -> None:
    flags = app.Flags(text="text.txt", batch=2, width=8, length=8)
    words = shlex.split(app.plan(flags, RunFolder(Path("a b/c'd")), []).resume_command)
    again = parse_flags(app.Flags, app.COMMAND, words[len(app.COMMAND.split()) :])
    assert (again.save_dir, again.resume) == ("a b/c'd", True)


def test_the_text_is_found_again_from_any_folder(app: ModuleType) -> None:
    kept = app.plan(app.Flags(text="text.txt", width=8, length=8), RunFolder(Path("run")), []).kept_config
    assert Path(kept["text"]).is_absolute()
    assert Path(kept["text"]).samefile("text.txt")


def test_a_resume_may_not_read_other_windows(app: ModuleType) -> None:
    app.APP.run(f"{SMALL} --steps 3".split())
    with pytest.raises(UserError, match="batch is 2 in the run and 4 here"):
        app.APP.run(["--resume", "--save_dir", "my_run", "--batch", "4"])


def test_a_text_that_was_edited_is_another_one(app: ModuleType) -> None:
    app.APP.run(f"{SMALL} --steps 3".split())
    with Path("text.txt").open("a") as file:
        file.write("over\n")
    with pytest.raises(UserError, match=r"text is \w{12} in the run and \w{12} here: this is fixed"):
        app.APP.run(["--resume", "--save_dir", "my_run", "--steps", "4"])


def test_every_flag_has_a_place_in_the_policy(app: ModuleType) -> None:
    assert app.POLICY.problems(app.Flags) == []
