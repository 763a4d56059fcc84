"""transformerlm-attention over the reference in the place of a backend: what it writes, prints, and refuses."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lm_core.run.checkpoint import Checkpoints
from lm_pipeline.commands import attention
from lm_pipeline.inside.study import Study
from lm_tokenizer.adapters import train_tokenizer

from .conftest import program
from .hand_made import CONFIG, SIZE, hand_made_weights
from .reference_scorer import ReferenceScorer

Run = Callable[..., int]
LETTERS = "abcdefghijklmnop"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The program in a folder with a run of the model made by hand, `run`, and a text, `text.txt`."""
    monkeypatch.chdir(tmp_path)
    tokenizer = train_tokenizer("characters", [LETTERS])
    assert tokenizer.vocab_size == SIZE
    (tmp_path / "run" / "tokenizer").mkdir(parents=True)
    tokenizer.save(tmp_path / "run" / "tokenizer")
    metadata = {
        "model": CONFIG.model_dump(), "step": 1, "val_loss": 1.0,
        "tokenizer": {"kind": tokenizer.name, "fingerprint": tokenizer.fingerprint},
    }  # fmt: skip
    Checkpoints(tmp_path / "run" / "checkpoints").save(hand_made_weights(), {}, metadata)
    (tmp_path / "text.txt").write_text("badgepc" * 30)
    reference = ReferenceScorer(CONFIG, {})
    monkeypatch.setattr(attention, "load_backend", lambda _name: reference)
    start = program(attention.main, monkeypatch)
    return lambda *words: start("--checkpoint", "run", *words)


def test_it_writes_the_study_and_its_page_and_prints_the_heads_that_stand_out(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--text", "text.txt", "--output", "out", "--tokens", "64", "--ablation_tokens", "32"
    assert run(*words) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^induction score +1\.0 \(0\.9", printed, re.MULTILINE)
    assert re.search(r"^previous-token score +0\.0 \(1\.000\)", printed, re.MULTILINE)
    assert printed.endswith("out/attention.html\n")
    study = Study.load(Path("out/attention.npz"))
    assert study.tokens == 64
    assert "".join(study.text_tokens) == ("badgepc" * 3)[:SIZE]
    assert "largest is" in Path("out/attention.html").read_text()
    assert run(*words) == 2
    assert "out/attention.npz is already there; give another folder, or overwrite" in capsys.readouterr().err
    assert run(*words, "--overwrite", "--show", "pca", "--ablation_tokens", "0") == 0
    again = Study.load(Path("out/attention.npz"))
    assert "".join(again.text_tokens) == "pca"
    assert np.isnan(again.ablation).all()
    assert "ablation" not in capsys.readouterr().out
    assert "Ablation" not in Path("out/attention.html").read_text()


def test_what_cannot_be_written_or_held_is_found_before_the_study(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "make_study", lambda *_, **__: pytest.fail("it was begun"))
    assert run("--text", "text.txt", "--output", "text.txt/out") == 2
    assert "output: cannot write in text.txt/out: Not a directory" in capsys.readouterr().err
    monkeypatch.setattr(ReferenceScorer, "memory", lambda *_: 1000)
    assert run("--text", "text.txt", "--output", "out") == 2
    assert "the study" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "output: give a folder to write"),
        (["--output", "text.txt"], "output: text.txt is not a folder"),
        (["--output", "out"], "text: give a text file for the model to read"),
        (["--output", "out", "--text", "none.txt"], "cannot read text none.txt: No such file or directory"),
        (["--output", "out", "--text", "short.txt"], "text: it has 2 tokens, and a study needs 3 at least"),
        (["--output", "out", "--text", "capitals.txt"], "text: "),
        (["--output", "out", "--text", "text.txt", "--show", "XYZ"], "show: "),
        (["--output", "out", "--text", "text.txt", "--tokens", "0"], "tokens"),
        (["--output", "out", "--text", "text.txt", "--checkpoint", "none"], "checkpoint: there is no folder none"),
    ],
)
def test_a_mistake_is_one_line(run: Run, capsys: pytest.CaptureFixture[str], words: list[str], line: str) -> None:
    Path("short.txt").write_text("ab")
    Path("capitals.txt").write_text("ABCDEFGH")
    assert run(*words) == 2
    printed = capsys.readouterr()
    assert line in printed.err
    assert printed.err.count("\n") == 1
    assert not printed.out
    assert not Path("out").exists()
