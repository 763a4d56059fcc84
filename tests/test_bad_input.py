"""A user's mistake gives one clear line and exit code 2, before any model is built, with nothing left behind."""

import sys
from pathlib import Path

import pytest

import lm_core.backend
from lm_core.run import plan, session
from testbed_d import cli

GOOD = "0123456789 and some words to make it long enough\n" * 100
MISTAKES = [
    ("--text missing.txt", "cannot read text missing.txt: No such file"),
    ("--text empty.txt", "text empty.txt is empty"),
    ("--text short.txt", "too short: its training part has 90 characters, a window needs 257"),
    ("--text good.txt --val_frac 0.01", "too short: its validation part has 49 characters"),
    ("--text latin1.txt", "byte 3 is not valid UTF-8"),
    ("--text cut.txt", "it is cut inside a character"),
    ("--text .", "cannot read text .: Is a directory"),
    ("--text good.txt --n_head 3", "--n_head 3 does not divide --d_model 256"),
    ("--text good.txt --lmin 100 --lmax 50", "--lmin 100 is above --lmax 50"),
    ("--text good.txt --lmin 300 --lmax 400", "--lmin 300 is above --ctx 256"),
    ("--text good.txt --lr_schedule 0:1e-3,nonsense", "'nonsense' is not \"step:lr\""),
    ("--text good.txt --lr_schedule 0:-1", 'is not "step:lr" with a step >= 0 and a positive rate'),
    ("--text good.txt --lr_schedule 10:1e-3,5:1e-4", "step 5 comes after step 10; the steps must ascend"),
    ("--steps 0", "--steps: Input should be greater than 0"),
    ("--batch -1", "--batch: Input should be greater than 0"),
    ("--lr 0", "--lr: Input should be greater than 0"),
    ("--lr nan", "--lr: Input should be"),
    ("--warmup -1", "--warmup: Input should be greater than or equal to 0"),
    ("--opt sgd", "invalid choice 'sgd' for argument '--opt'. Expected one of ('kbeta', 'adam')"),
    ("--steps many", "--steps"),
    ("--d_modell 3", "--d_modell"),
    ("--config missing.toml", "cannot read missing.toml"),
    ("--config unknown.toml", "unknown.toml: unknown key 'd_modle'; did you mean 'd_model'?"),
    ("--config broken.toml", "broken.toml is not valid TOML"),
    ("--resume", "there is no run under runs/testbed_d"),
    ("--resume --save_dir nothing", "nothing holds no run"),
    ("--text good.txt --save_dir file.txt/run", "cannot write to save_dir file.txt/run"),
    ("--text good.txt --device gpu --backend torch", "device gpu: torch sees no CUDA device here"),
    ("--text good.txt --device gpu --backend mlx", "device gpu: MLX has no GPU here"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.txt").write_text(GOOD)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("x" * 100)
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9 and more" * 200)
    (tmp_path / "cut.txt").write_bytes((GOOD + "é").encode()[:-1])
    (tmp_path / "file.txt").write_text("not a folder")
    (tmp_path / "unknown.toml").write_text("d_modle = 3\n")
    (tmp_path / "broken.toml").write_text("d_model = \n")
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, flags: str) -> int:
    monkeypatch.setattr(sys, "argv", ["testbed_d", *flags.split()])
    return cli.main()


def has_gpu(flags: str) -> bool:
    if "gpu" not in flags:
        return False
    if "torch" in flags:
        return bool(pytest.importorskip("torch").cuda.is_available())
    mx = pytest.importorskip("mlx.core")
    return bool(mx.is_available(mx.gpu))


@pytest.mark.parametrize(("flags", "message"), MISTAKES, ids=[flags for flags, _ in MISTAKES])
def test_a_mistake_is_one_line_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: str, message: str
) -> None:
    if has_gpu(flags):
        pytest.skip("no mistake here: there is a GPU")
    monkeypatch.setattr(plan, "initial_arrays", lambda *_: pytest.fail("a model was about to be built"))
    before = sorted(folder.rglob("*"))
    assert run(monkeypatch, flags) == 2
    said = capsys.readouterr().err.splitlines()
    errors = [line for line in said if line.startswith("testbed_d: error: ")]
    assert len(errors) == 1
    assert said[-1] == errors[0]
    assert message in errors[0]
    assert sorted(folder.rglob("*")) == before


def test_a_backend_that_is_not_installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lm_core.backend, "_known", lambda: iter([("torch", "lm_torch.backend:TorchBackend")]))
    assert run(monkeypatch, "--text good.txt --backend mlx") == 2
    assert "backend 'mlx' is not installed: pip install" in capsys.readouterr().err
    assert not (folder / "runs").exists()


SMALL_RUN = "--text good.txt --steps 4 --d_model 16 --n_layer 1 --n_head 2 --batch 2 --sample 0 --save_dir run"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--resume --save_dir run --text other.txt", "run was trained with another tokenizer"),
        ("--resume --save_dir run --d_model 32", "d_model is 16 in the run and 32 here"),
        ("--resume --save_dir run --opt adam", "opt is kbeta in the run and adam here"),
        ("--save_dir run --text good.txt", "run already holds a run: resume it with --resume"),
    ],
)
def test_a_run_is_not_resumed_as_something_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: str, message: str
) -> None:
    (folder / "other.txt").write_text(GOOD.upper())
    assert run(monkeypatch, SMALL_RUN + " --backend torch") == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run(monkeypatch, flags) == 2
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_that_is_stopped_before_its_first_step_says_how_to_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Asked(session.Interrupts):
        def __enter__(self) -> "Asked":
            super().__enter__()
            self.requested = True
            return self

    monkeypatch.setattr(session, "Interrupts", Asked)
    assert run(monkeypatch, SMALL_RUN + " --backend torch") == 0
    assert (
        "nothing was trained yet; to resume: uv run apps/testbed_d --save_dir run --resume" in capsys.readouterr().err
    )
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert run(monkeypatch, "--save_dir run --resume") == 0
    assert (folder / "run" / "report.html").exists()


def test_a_window_longer_than_the_context_is_capped_and_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, SMALL_RUN + " --ctx 128 --lmax 512 --backend torch") == 0
    assert "--lmax 512 is above --ctx 128: windows are capped at 128" in capsys.readouterr().err


def test_a_config_file_may_name_the_run_folder_and_the_last_of_two_flags_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "mine.toml").write_text('save_dir = "mine"\n')
    flags = SMALL_RUN.replace("--save_dir run", "") + " --backend torch --config mine.toml"
    assert run(monkeypatch, flags) == 0
    assert (folder / "mine" / "report.html").exists()
    assert run(monkeypatch, SMALL_RUN + " --backend torch --save_dir other") == 0
    assert (folder / "other" / "report.html").exists()
    assert not (folder / "run").exists()


def test_a_run_is_resumed_from_another_folder_and_says_when_its_text_has_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, SMALL_RUN + " --backend torch") == 0
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert run(monkeypatch, "--save_dir ../run --resume --steps 6") == 0
    assert "text is not the one" not in capsys.readouterr().err
    (folder / "good.txt").write_text(GOOD[::-1])
    assert run(monkeypatch, "--save_dir ../run --resume --steps 8") == 0
    assert "note: text holds other data than the run was trained on" in capsys.readouterr().err
