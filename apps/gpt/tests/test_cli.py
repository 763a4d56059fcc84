"""Each command of gpt, on a text that is encoded while the model is trained on it; and the mistakes of one line."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt import cli
from lm_core.data.shards import read_stream_record

SMALL = (
    "--model.seq_len 16 --model.d_model 16 --model.n_layers 1 --model.n_heads 2 --training.batch_size 2"
    " --training.eval_every 2 --training.save_every 2 --data.eval_tokens 40 --backend torch"
)
SOURCE = "--source.train text.txt --source.output shards --source.vocab_size 300 --source.validation_fraction 0.3"
Call = Callable[[str], tuple[int, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs the program in a folder of its own; returns its exit code and all that it printed."""
    monkeypatch.chdir(tmp_path)

    def run(words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["gpt", *words.split()])
        code = cli.main()
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


@pytest.fixture
def text(call: Call) -> None:
    documents = [f"document {i} of some words that are long enough, and more of them" for i in range(60)]
    Path("text.txt").write_text("\n\n".join(documents))
    Path("empty.txt").write_text("")


@pytest.mark.usefixtures("text")
def test_a_model_is_trained_on_a_text_that_is_encoded_meanwhile_resumed_evaluated_and_sampled(call: Call) -> None:
    pytest.importorskip("torch")
    separated = ["--source.separator", "\n\n"]
    train = [*SOURCE.split(), *separated, *SMALL.split(), "--save_dir", "run"]
    assert cli.run(["train", *train, "--training.max_tokens", "128", "--optimizer.average", "0.5"]) == 0
    record = read_stream_record(Path("shards"))
    assert record
    assert record.tokens["train"] > record.tokens["validation"] > 0
    assert json.loads(Path("run/result.json").read_text())["step"] == 4
    Path("other.toml").write_text('[source]\ntrain = ["other.txt"]\n')
    code, said = call("train --resume --save_dir run --config other.toml")
    assert code == 2
    assert f"source.train is {Path('text.txt').resolve()} in the run and other.txt here: this is fixed" in said
    code, said = call("train --resume --save_dir run --training.max_steps 6")
    assert code == 0, said
    assert "sample:  uv run apps/gpt sample --checkpoint run\n" in said
    assert "apps/gpt train --resume" in Path("run/report.html").read_text()
    assert json.loads(Path("run/result.json").read_text())["step"] == 6
    assert call("evaluate --checkpoint run --tokens shards --backend torch")[0] == 0
    assert "bits_per_byte" in Path("run/evaluation.json").read_text()
    code, said = call("sample --checkpoint run --prompt document --max_new_tokens 3 --backend torch")
    assert (code, "document" in said) == (0, True)


@pytest.mark.usefixtures("text")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("tran", "there is no command 'tran': give one of train, evaluate, attention, sample"),
        ("train --source.train text.txt", "source.output: name a folder for the token shards"),
        (f"train {SOURCE} --source.train missing.txt", "missing.txt"),
        (f"train {SOURCE} --source.train empty.txt {SMALL}", "the inputs hold no text: empty.txt"),
        (
            f"train {SOURCE} {SMALL} --source.validation_fraction 0 --source.validation empty.txt --save_dir run",
            "one of train and validation has no text in its inputs",
        ),
        ("train --source.train text.txt --source.output shards", "source.validation: name validation inputs, or hold"),
        ("train --seeds 1 1 --save_dir run", "give each seed once"),
        (f"train {SOURCE} {SMALL} --training.max_tokens 31 --save_dir run", "31 is less than one batch"),
        (
            f"train {SOURCE} {SMALL} --schedule.kind hold_then_cosine --schedule.decay_steps 9 --training.max_steps 2",
            "more than max_steps",
        ),
        ("train --source.validation_fraction 2", "source.validation_fraction"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_run(call: Call, words: str, said: str) -> None:
    code, printed = call(words)
    assert code == 2
    assert said in printed.splitlines()[-1]
    assert printed.splitlines()[-1].startswith(f"uv run apps/gpt{' train' * words.startswith('train')}: error: ")
    assert not Path("run/config.toml").exists()
    assert not [*Path().glob("shards*")], "nothing is encoded for a run that cannot be"


@pytest.mark.parametrize("words", ["", "--help", "-h"])
def test_help_names_every_command(call: Call, words: str) -> None:
    code, said = call(words)
    assert code == 0
    assert all(f"  {name} " in said for name in cli.COMMANDS)
