"""Pretraining, evaluation and play on the smallest model; one config file for all; mistakes are one line."""

import io
import json
import re
import sys
from pathlib import Path

import pytest

from lm_core.run.log import read_records
from lm_tokenizer.adapters.characters import CharacterTokenizer
from rlvr import cli
from rlvr.evaluate import EvaluateFlags
from rlvr.pretrain import POLICY, PretrainFlags
from rlvr.vocabulary import END

from .tiny import SMALL, Call, caller


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.chdir(tmp_path)
    return caller(monkeypatch, capsys)


def test_every_key_of_pretraining_has_a_decision() -> None:
    assert POLICY.problems(PretrainFlags) == []


def test_both_backends_pretrain_alike_and_a_resumed_run_is_the_same_run(call: Call) -> None:
    for backend in ("torch", "mlx"):
        pytest.importorskip(f"lm_{backend}")
        assert call(f"pretrain {SMALL} --backend {backend} --save_dir {backend}")[0] == 0
    assert call(f"pretrain {SMALL} --steps 2 --backend torch --save_dir parts --lr 1e-3")[0] == 0
    curves = [[record["loss_nats"] for record in read_records(Path(run) / "metrics.jsonl")] for run in ("torch", "mlx")]
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)
    assert curves[0][-1] < curves[0][0]
    code, _, said = call("pretrain --resume --save_dir torch --d_model 32")
    assert (code, "d_model is 16 in the run and 32 here" in said) == (2, True)
    assert "nothing was changed" in call("pretrain --resume --save_dir torch")[2]


def test_a_run_is_evaluated_and_played_with(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    for seed in (0, 1):
        code, out, _ = call(f"pretrain {SMALL} --seed {seed} --backend torch --save_dir seed-{seed}")
        assert (code, f"play:     uv run apps/rlvr play --checkpoint seed-{seed}\n" in out) == (0, True)
    flags = "--problems_per_level 4 --samples 3 --k 2 --show 3 --backend torch"
    code, out, _ = call(f"evaluate --checkpoint seed-0 seed-1 --before seed-1 --max_level 2 {flags}")
    assert code == 0
    assert "checkpoint: mean of 2 runs, interval over the runs" in out
    assert len(re.findall(r"^chain  [12]      4 ", out, re.MULTILINE)) == 8
    assert re.search(r"^problem +before +checkpoint$", out, re.MULTILINE)
    record = json.loads(Path("seed-0/evaluation.json").read_text())
    assert [(row["task"], row["level"]) for row in record["figures"]] == [("chain", 1), ("chain", 2), ("all", None)]
    assert len(record["shown"]) == 3
    for row in record["figures"]:
        assert row["pass_at_1_interval"][0] <= row["pass_at_1"] <= row["pass_at_1_interval"][1]
        assert row["pass_at_1"] <= row["pass_at_k"] <= 1
    before = record["figures"]
    assert call(f"evaluate --checkpoint seed-0 --max_level 2 {flags} --rows 5")[0] == 0
    assert json.loads(Path("seed-0/evaluation.json").read_text())["figures"] == before, "it depends on no batch"

    monkeypatch.setattr(sys, "stdin", io.StringIO("chain 3+4\nchain\nadd 1+2\nchain x\nchain 3+4*5-6*7+8"))
    code, out, said = call("play --checkpoint seed-0 --backend torch")
    assert code == 2
    first, second = out.splitlines()
    assert re.match(r"chain 3\+4=.*   (right|wrong: (7|not ended))$", first)
    assert re.match(r"chain \d[+*-]\d=.*   (right|wrong: (\d+|not ended))$", second)
    assert said.splitlines() == [
        "line 3: 'add 1+2' does not start with a task of the model: chain",
        f"line 4: 'chain x' is not a problem of the task chain, such as '{problem_like(said)}'",
        "line 5: chain 3+4*5-6*7+8=211 has 22 characters with its end, and the model reads 16: lower max_level, or"
        " train a model with a larger seq_len",
    ]


def problem_like(said: str) -> str:
    [found] = re.findall(r"such as '(chain \d[+*-]\d=)'", said)
    return str(found)


def test_a_config_has_keys_of_all_commands_and_a_table_for_each(call: Call) -> None:
    Path("all.toml").write_text(
        'tasks = ["sort"]\nmax_level = 2\n[pretrain]\nsteps = 7\nmax_level = 4\n[evaluate]\nk = 3\n[train]\nx = 1\n'
    )
    pretrain, evaluate = PretrainFlags.load("all.toml"), EvaluateFlags.load("all.toml")
    assert (pretrain.tasks, pretrain.max_level, pretrain.steps) == (("sort",), 4, 7)
    assert (evaluate.tasks, evaluate.max_level, evaluate.k) == (("sort",), 2, 3)
    Path("all.toml").write_text("[pretrain]\nstep = 7\n")
    code, _, said = call("pretrain --config all.toml")
    assert (code, said.splitlines()[-1]) == (
        2,
        "uv run apps/rlvr: error: all.toml: unknown key 'step'; did you mean 'steps'?",
    )
    Path("all.toml").write_text("pretrain = 3\n")
    assert call("pretrain --config all.toml")[0] == 2


OWN = """
from rlvr.tasks.strings import Copy


class Doubled(Copy):
    name = "double"

    def solve(self, question, slip=str):
        return slip(question + question)


class Broken(Copy):
    name = "broken"

    def is_right(self, question, text):
        return text == "never"
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("tran", "there is no command 'tran': give one of pretrain, "),
        (f"pretrain {SMALL} --tasks chian", "tasks: unknown task 'chian'; did you mean chain?"),
        (f"pretrain {SMALL} --min_level 2", "task chain has the levels 1 to 8, not 2 to 1"),
        (f"pretrain {SMALL} --max_level 9", "task chain has the levels 1 to 8, not 1 to 9"),
        (f"pretrain {SMALL} --max_level 8", "with its end, and the model reads 16: lower"),
        (f"pretrain {SMALL} --wrong 1", "--wrong: Input should be less than 1"),
        (f"pretrain {SMALL} --n_heads 3", "n_heads 3 does not divide d_model 16"),
        (f"pretrain {SMALL} --tasks own.py:Broken", "task broken: its checker refuses its own solution"),
        (f"pretrain {SMALL} --tasks own.py:Missing", "has no class Missing that is a rlvr.tasks.task.Task"),
        ("evaluate", "checkpoint: name one run folder or more"),
        ("evaluate --checkpoint nothing", "checkpoint: there is no folder nothing"),
        ("evaluate --checkpoint nothing --k 9", "k 9 is above samples 8"),
        ("play", "checkpoint: name the run folder of a model"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_run(call: Call, words: str, said: str) -> None:
    Path("own.py").write_text(OWN)
    code, out, printed = call(f"{words} --save_dir run" if words.startswith("pretrain") else words)
    assert (code, out) == (2, "")
    assert said in printed.splitlines()[-1]
    assert not Path("run").exists()


def test_a_task_of_one_s_own_is_trained_on_and_its_file_is_found_from_anywhere(call: Call) -> None:
    pytest.importorskip("torch")
    Path("own.py").write_text(OWN)
    assert call(f"pretrain {SMALL} --seq_len 24 --tasks own.py:Doubled --backend torch --save_dir run")[0] == 0
    assert f"{Path('own.py').resolve()}:Doubled" in Path("run/config.toml").read_text()


def test_a_run_of_another_vocabulary_is_refused(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    assert call(f"pretrain {SMALL} --backend torch --save_dir run")[0] == 0
    monkeypatch.setattr("rlvr.saved.VOCABULARY", CharacterTokenizer("abc", [END]))
    for words in ("evaluate --checkpoint run", "play --checkpoint run"):
        code, _, said = call(words)
        assert (code, "run has another vocabulary than this app" in said) == (2, True)


@pytest.mark.parametrize("words", ["", "--help", "-h"])
def test_help_names_every_command(call: Call, words: str) -> None:
    code, out, _ = call(words)
    assert code == 0
    assert all(f"  {name} " in out for name in cli.COMMANDS)
