"""transformerlm-evaluate over the float64 reference: what is printed and written, and every mistake."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.backend import Marks
from lm_core.config import ModelConfig
from lm_core.data.batches import Batch
from lm_core.interchange.folder import export_model
from lm_core.model.init import initial_arrays
from lm_core.reference import model as reference
from lm_core.run.checkpoint import Checkpoints
from lm_pipeline.commands import evaluate
from lm_pipeline.commands.make_data import MakeDataConfig, make_data
from lm_tokenizer import Tokenizer
from lm_tokenizer.token_file import TokenFileWriter

Run = Callable[..., int]
MODEL = ModelConfig(
    vocab_size=320, seq_len=8, d_model=8, n_layers=1, n_heads=1, norm="rms", mlp="swiglu", positions="rope", bias=False
)
TEXT = "The quick brown fox jumps over a lazy dog, 1,234 times; 東京 🦊 " * 3


class Reference:
    """A backend that is the float64 reference; it notes the ids that its model has."""

    name = "reference"

    def __init__(self) -> None:
        self.vocab_size = 0

    def memory(self, step: object) -> None:
        return None

    def describe(self, step: object) -> str:
        return "reference"

    def scorer(self, model: ModelConfig, step: object, weights: Any) -> "Reference":
        self.model, self.weights, self.vocab_size = model, weights, model.vocab_size
        return self

    def marks(self, batch: Batch) -> Marks:
        logits = reference.logits(self.model, self.weights, batch.inputs, batch.segments)
        return Marks.of(reference.token_marks(logits, batch.targets))


@pytest.fixture
def backend(folder: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Reference:
    """A run in the folder `run`, its text as `text.txt`, and the backend."""
    (folder / "run" / "tokenizer").mkdir(parents=True)
    (folder / "run" / "config.toml").write_text("")
    tokenizer.save(folder / "run" / "tokenizer")
    said = {"model": MODEL.model_dump(), "tokenizer": {"kind": tokenizer.name, "fingerprint": tokenizer.fingerprint}}
    for step, loss in ((1, 2.0), (2, 3.0)):
        kept = {**said, "step": step, "val_loss": loss}
        Checkpoints(folder / "run" / "checkpoints").save(initial_arrays(MODEL, step), {}, kept)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    backend = Reference()
    monkeypatch.setattr(evaluate, "load_backend", lambda name: backend)
    return backend


@pytest.fixture
def run_evaluate(monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(*words: object) -> int:
        monkeypatch.setattr("sys.argv", ["program", "--checkpoint", "run", *map(str, words)])
        return evaluate.main()

    return run


def write_tokens(path: Path, ids: Any, fingerprint: str, text_bytes: int) -> None:
    with TokenFileWriter(
        path, np.uint16, vocab_size=300, fingerprint=fingerprint, eos_id=0, source="", pair=""
    ) as file:
        file.write(np.array(ids, np.uint16), text_bytes, 1)
        file.finish()


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    [line] = capsys.readouterr().out.splitlines()
    return dict(json.loads(line))


def test_figures_are_printed_and_written_into_the_run(
    backend: Reference, run_evaluate: Run, folder: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_evaluate("--text", "text.txt") == 0
    found = printed(capsys)
    assert found == json.loads((folder / "run/evaluation.json").read_text())
    ids = np.array([tokenizer.eos_id, *tokenizer.encode(TEXT), tokenizer.eos_id])
    assert (found["targets"], found["text_bytes"]) == (len(ids) - 1, len(TEXT.encode()))
    assert (found["context"], found["stride"], found["text"]) == (8, 8, "text.txt")
    assert found["checkpoint"].endswith("best checkpoint, step 1")
    assert backend.vocab_size == 300  # without the ids that are in no text
    assert 8 > found["bits_per_byte"] > 2
    assert found["bits_per_token"] == pytest.approx(np.log2(300), abs=0.1)  # of a model that has learned nothing


def test_a_token_file_has_the_figures_of_its_text_but_for_the_first_token(
    backend: Reference, run_evaluate: Run, folder: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tokenizer.eos_id is not None
    ids = [tokenizer.eos_id, *tokenizer.encode(TEXT), tokenizer.eos_id]
    write_tokens(folder / "text.npy", ids, tokenizer.fingerprint, len(TEXT.encode()))
    assert run_evaluate("--tokens", "text.npy", "--stride", 3, "--which", "latest") == 0
    of_tokens = printed(capsys)
    assert run_evaluate("--text", "text.txt", "--stride", 3, "--which", "latest", "--output", "x/out.json") == 0
    of_text = printed(capsys)
    assert (of_tokens.pop("text"), of_text.pop("text")) == ("text.npy", "text.txt")
    assert of_tokens == of_text
    assert json.loads((folder / "x/out.json").read_text())["stride"] == 3
    (folder / "text.npy.json").unlink()
    assert run_evaluate("--tokens", "text.npy", "--stride", 3, "--which", "latest") == 0
    assert printed(capsys) == {**of_tokens, "text": "text.npy"}  # its ids tell the bytes


def test_a_stream_of_shards_has_the_figures_of_the_token_file_of_its_validation_part(
    backend: Reference, run_evaluate: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = {"train": ["text.txt"], "validation": ["more.txt"], "tokenizer": "tok", "threads": 1}
    (folder / "more.txt").write_text(TEXT[::-1])
    make_data(MakeDataConfig.parse({**fixed, "output": "files"}))
    make_data(MakeDataConfig.parse({**fixed, "output": "shards", "shards": True, "shard_bytes": 50}))
    capsys.readouterr()
    assert run_evaluate("--tokens", "files/validation.npy", "--stride", 3) == 0
    of_file = printed(capsys)
    assert run_evaluate("--tokens", "shards", "--stride", 3) == 0
    assert printed(capsys) == {**of_file, "text": "shards"}
    (folder / "shards/stream.json").unlink()
    assert run_evaluate("--tokens", "shards") == 2
    assert "tokens: shards is not complete: wait for make-data, or run it again" in capsys.readouterr().err


def test_a_hugging_face_folder_is_evaluated_and_left_as_it_is(
    backend: Reference, run_evaluate: Run, folder: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    export_model(folder / "hf", MODEL, initial_arrays(MODEL, 1))
    tokenizer.save(folder / "hf")
    before = sorted(folder.rglob("*"))
    assert run_evaluate("--checkpoint", "hf", "--text", "text.txt") == 0
    of_folder = printed(capsys)
    assert sorted(folder.rglob("*")) == before
    assert run_evaluate("--text", "text.txt") == 0
    assert printed(capsys)["loss_nats"] == pytest.approx(of_folder["loss_nats"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("", "text: give files of text, or a token file as tokens"),
        ("--text text.txt --tokens text.npy", "(not both)"),
        ("--text empty.txt", "empty.txt has no text to evaluate on"),
        ("--text missing.txt", "there is no file or folder"),
        ("--tokens missing.npy", "tokens: there is no token file missing.npy"),
        ("--tokens one.npy", "tokens: one.npy has no target to evaluate on: it has 1 tokens"),
        ("--tokens other.npy", "tokens: token file other.npy was made with another tokenizer"),
        ("--text text.txt --stride 9", "stride 9 leaves tokens out: give 1 to 8"),
        ("--text text.txt --output text.txt/x", "output: cannot write text.txt/x"),
        ("--checkpoint nowhere --text text.txt", "checkpoint: there is no folder nowhere"),
    ],
)
def test_a_mistake_is_one_line(
    flags: str,
    words: str,
    backend: Reference,
    run_evaluate: Run,
    folder: Path,
    tokenizer: Tokenizer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "empty.txt").write_text("")
    write_tokens(folder / "one.npy", [5], tokenizer.fingerprint, 1)
    write_tokens(folder / "other.npy", [5, 6, 7], "0" * 64, 3)
    assert run_evaluate(*flags.split()) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert words in last
    assert not (folder / "run/evaluation.json").exists()


def test_a_model_whose_losses_are_not_finite_has_no_figures(
    backend: Reference, run_evaluate: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = initial_arrays(MODEL, 3)
    weights["lm_head.weight"] = np.copysign(np.float32(3e38), weights["lm_head.weight"])
    shutil.rmtree(folder / "run")
    export_model(folder / "hf", MODEL, weights)
    Tokenizer.load(folder / "tok").save(folder / "hf")
    with np.errstate(all="ignore"):
        assert run_evaluate("--checkpoint", "hf", "--text", "text.txt") == 1
    assert "the model gives a target a loss of" in capsys.readouterr().err
