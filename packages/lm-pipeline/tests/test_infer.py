"""transformerlm-infer over a decoder that draws what it is told: what is printed and logged, and every mistake."""

import io
import json
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from lm_core.config import ModelConfig, SamplingConfig
from lm_core.interchange.folder import export_model
from lm_core.model.init import initial_arrays
from lm_core.run.checkpoint import Checkpoints
from lm_pipeline.commands import export, infer
from lm_tokenizer import Tokenizer
from lm_tokenizer.adapters import train_tokenizer

Run = Callable[..., int]
MODEL = ModelConfig(
    vocab_size=320, seq_len=8, d_model=8, n_layers=1, n_heads=1, norm="rms", mlp="swiglu", positions="rope", bias=False
)
EOS = "<|endoftext|>"


class Told:
    """A backend whose every row says `text`; it notes what it is asked."""

    ids_per_call = 1
    name = "told"

    def __init__(self, ids: Sequence[int], interrupt_at: int | None = None) -> None:
        self.ids, self.interrupt_at = ids, interrupt_at
        self.read: list[list[int]] = []
        self.uniforms: list[float] = []
        self.sampling: SamplingConfig | None = None
        self.rows: list[int] = []
        self.weights: Any = None

    def memory(self, step: object) -> None:
        return None

    def describe(self, step: object) -> str:
        return "told"

    def decoder(self, model: ModelConfig, step: object, weights: Any, rows: int, vocab_size: int) -> "Told":
        assert vocab_size == 300
        self.place, self.weights = 0, weights
        self.rows.append(rows)
        return self

    def prefill(self, row: int, ids: Sequence[int], seen: Collection[int]) -> None:
        self.read.append(list(ids))

    def next_ids(self, uniforms: Sequence[Sequence[float]], sampling: SamplingConfig) -> list[list[int]]:
        if self.place == self.interrupt_at:
            raise KeyboardInterrupt
        self.place, self.sampling = self.place + 1, sampling
        self.uniforms += uniforms[0]
        return [[self.ids[self.place - 1]] * len(uniforms[0])]

    def room(self, row: int) -> int:
        return 1

    def keep(self, rows: Sequence[int]) -> None:
        pass


def save_run(folder: Path, tokenizer: Any, model: ModelConfig = MODEL, metadata: dict[str, Any] | None = None) -> None:
    """A run folder with two checkpoints: step 1 with the better loss, and step 2."""
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "config.toml").write_text("")
    tokenizer.save(folder / "tokenizer")
    said = {"model": model.model_dump(), "tokenizer": {"kind": tokenizer.name, "fingerprint": tokenizer.fingerprint}}
    for step, loss in ((1, 2.0), (2, 3.0)):
        weights = initial_arrays(model, step)
        kept = {**said, **(metadata or {}), "step": step, "val_loss": loss}
        Checkpoints(folder / "checkpoints").save(weights, {}, kept)


@pytest.fixture
def told(folder: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Told:
    """A run in the folder `run`, and a backend that continues every text by " over the dog" and the end of text."""
    save_run(folder / "run", tokenizer)
    backend = Told([*tokenizer.encode(" over the dog"), tokenizer.eos_id or 0, *[5] * 99])
    monkeypatch.setattr(infer, "load_backend", lambda name: backend)
    return backend


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


# What is written


def test_a_prompt_and_its_continuation_are_printed_and_logged(
    told: Told, run_infer: Run, folder: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--checkpoint", "run", "--prompt", "a fox", "--sampling.temperature", "0.5", "--sampling.top_p", "0.9"]
    assert run_infer(*flags, "--logging.file", "logs/infer.jsonl") == 0
    assert capsys.readouterr().out == "a fox over the dog\n"
    [record] = [json.loads(line) for line in (folder / "logs/infer.jsonl").read_text().splitlines()]
    assert record["metrics.latency_ms"] > 0
    assert record["metrics.tokens_per_second"] > 0
    said = {key: record[key] for key in ("params.temperature", "params.p", "params.eos_token_id")}
    assert said == {"params.temperature": 0.5, "params.p": 0.9, "params.eos_token_id": tokenizer.eos_id}
    texts = [record[f"text.{key}"] for key in ("prompt", "output", "end")]
    assert texts == ["a fox", " over the dog", "end_of_text"]
    assert told.read == [tokenizer.encode("a fox")]
    assert run_infer(*flags, "--logging.file", "logs/infer.jsonl") == 0
    assert len((folder / "logs/infer.jsonl").read_text().splitlines()) == 2


def test_several_prompts_are_a_batch_and_have_seeds_of_their_own(
    told: Told, run_infer: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "prompts.txt").write_text("two\nthree\n")
    flags = ["--checkpoint", "run", "--prompt", "one", "--prompts_file", "prompts.txt", "--n", "2", "--output", "json"]
    assert run_infer(*flags) == 0
    records = printed(capsys)
    assert [(r["text.prompt"], r["params.sample"]) for r in records] == [
        (prompt, sample) for prompt in ("one", "two", "three") for sample in (0, 1)
    ]
    assert told.rows == [6]
    at_once = told.uniforms[:6]
    told.uniforms.clear()
    assert run_infer(*flags, "--batch_size", "4", "--max_new_tokens", "1") == 0
    assert told.rows == [6, 4, 2]
    assert told.uniforms == at_once
    assert len(set(at_once)) == 6


def test_several_texts_are_told_apart(told: Told, run_infer: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_infer("--checkpoint", "run", "--prompt", "one", "two", "--n", "2", "--stop", " the") == 0
    assert capsys.readouterr().out.splitlines()[:4] == [
        '--- "one", 1 of 2 ---',
        "one over",
        '--- "one", 2 of 2 ---',
        "one over",
    ]


def test_standard_input_is_a_prompt(
    told: Told, run_infer: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags in ([], ["--prompt", "-"]):
        monkeypatch.setattr("sys.stdin", io.StringIO("a lazy\n"))
        assert run_infer("--checkpoint", "run", *flags) == 0
        assert capsys.readouterr().out == "a lazy over the dog\n"


def test_an_empty_input_is_said_and_an_empty_prompt_taken(
    told: Told, run_infer: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty.txt").touch()
    for flags, said in (
        ([], "prompt: standard input is empty"),
        (["--prompt", "-"], "prompt: standard input is empty"),
        (["--prompts_file", "empty.txt"], "prompts_file: empty.txt is empty"),
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO("\n" if flags else ""))
        assert run_infer("--checkpoint", "run", *flags) == 2
        assert said in capsys.readouterr().err
    assert run_infer("--checkpoint", "run", "--prompt", "") == 0
    assert capsys.readouterr().out == " over the dog\n"


def test_the_best_checkpoint_is_used_unless_the_latest_is_asked_for(told: Told, run_infer: Run) -> None:
    for flags, step in (([], 1), (["--which", "latest"], 2)):
        assert run_infer("--checkpoint", "run", "--prompt", "a", *flags) == 0
        expected = initial_arrays(MODEL, step)
        assert all((told.weights[name] == array).all() for name, array in expected.items())


def test_without_a_checkpoint_the_newest_run_is_used(
    told: Told, run_infer: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "run", folder / "runs/transformerlm/mine")
    assert run_infer("--prompt", "a") == 0
    assert "runs/transformerlm/mine, best checkpoint, step 1; told" in capsys.readouterr().err


def test_an_empty_prompt_begins_with_the_end_of_text(told: Told, run_infer: Run, tokenizer: Tokenizer) -> None:
    assert run_infer("--checkpoint", "run", "--prompt", "") == 0
    assert told.read == [[tokenizer.eos_id]]


def test_a_long_prompt_is_used_from_its_end_and_that_is_said_once(
    told: Told, run_infer: Run, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "the quick brown fox jumps over a lazy dog " * 3
    assert run_infer("--checkpoint", "run", "--prompt", "a", long, long) == 0
    assert capsys.readouterr().err.count("of such a prompt the end is used") == 1
    assert tokenizer.encode(long)[-8:] in told.read


def test_top_k_above_the_vocabulary_is_clamped_and_that_is_said_once(
    told: Told, run_infer: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_infer("--checkpoint", "run", "--prompt", "a", "--sampling.top_k", "301", "--n", "20") == 0
    assert told.sampling is not None
    assert told.sampling.top_k == 300
    assert capsys.readouterr().err.count("top_k 301 is above the vocabulary: 300 is used") == 1


def test_temperature_0_is_greedy_and_the_end_of_text_can_be_passed_over(
    told: Told, run_infer: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--sampling.temperature", 0, "--ignore_eos", "--output", "json", "--max_new_tokens", told.ids.index(5)]
    assert run_infer("--checkpoint", "run", "--prompt", "a", *flags) == 0
    assert told.sampling == SamplingConfig(temperature=0)
    [record] = printed(capsys)
    assert record["text.output"] == f" over the dog{EOS}"
    assert record["params.eos_token_id"] is None


def test_ctrl_c_keeps_what_was_written_and_exits_with_130(
    told: Told, run_infer: Run, folder: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    told.interrupt_at = 2
    written = tokenizer.decode(told.ids[:2])
    flags = ["--checkpoint", "run", "--logging.file", "log", "--batch_size", "1"]
    assert run_infer(*flags, "--prompt", "a") == 130
    assert capsys.readouterr().out == f"a{written}\n"
    assert json.loads((folder / "log").read_text())["text.end"] == "interrupted"
    assert run_infer(*flags, "--prompt", "a", "b") == 130
    assert capsys.readouterr().out == f'--- "a" ---\na{written}\n'


# Mistakes


def test_print_config_does_nothing_else(told: Told, run_infer: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_infer("--checkpoint", "none", "--prompt", "a", "--print_config") == 0
    assert 'checkpoint = "none"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--checkpoint none", "checkpoint: there is no folder none"),
        ("--checkpoint tok", "checkpoint: tok is neither a run folder, with checkpoints/, nor one with a config.json"),
        ("--checkpoint empty", "checkpoint: empty has no intact checkpoint"),
        ("", "checkpoint: there is no run under runs/transformerlm"),
        ("--checkpoint run --sampling.top_p 0", "--sampling.top_p: Input should be greater than 0"),
        ("--checkpoint run --sampling.top_p 1.1", "--sampling.top_p: Input should be less than or equal to 1"),
        ("--checkpoint run --sampling.temperature -1", "--sampling.temperature: Input should be greater than or"),
        ("--checkpoint run --max_new_tokens 0", "--max_new_tokens: Input should be greater than 0"),
        ("--checkpoint run --stop=", "--stop: an empty stop string has no effect: leave it out"),
        ("--checkpoint run --prompts_file none", "prompts_file: cannot read none: No such file"),
        ("--checkpoint run --prompts_file /dev/zero", "prompts_file: cannot read /dev/zero: not a regular file"),
        ("--checkpoint run --tokenizer none", "tokenizer: there is no tokenizer 'none'"),
        ("--checkpoint run --tokenizer other", "tokenizer: other is not the one that the run run was trained with"),
        ("--checkpoint run --logging.file tok/vocab.json/x", "logging.file: cannot write tok/vocab.json/x"),
        ("--checkpoint run --prompt a --n 1000000000", "n: 1,000,000,000 texts are too many for one call"),
        ("--checkpoint run --sampling.topp 1", "did you mean --sampling.top_p?"),
    ],
)
def test_a_mistake_is_one_line(
    told: Told, run_infer: Run, folder: Path, capsys: pytest.CaptureFixture[str], flags: str, said: str
) -> None:
    (folder / "empty/checkpoints").mkdir(parents=True)
    Tokenizer.train(["other words " * 50], 270, [], progress=False).save(folder / "other")
    capsys.readouterr()
    assert run_infer("--prompt", "a", *flags.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert not told.read


def test_an_empty_prompt_needs_an_end_of_text(
    told: Told, run_infer: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_run(folder / "characters", train_tokenizer("characters", ["abc"]))
    assert run_infer("--checkpoint", "characters", "--prompt", "") == 2
    assert "prompt 1 is empty, and the tokenizer has no end-of-text token" in capsys.readouterr().err
    assert run_infer("--checkpoint", "characters", "--prompt", "xyz") == 2
    assert "error: prompt 1: " in capsys.readouterr().err


def other_tokenizer(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")
    Tokenizer.train(["other words " * 50], 270, [EOS], progress=False).save(folder / "tokenizer")


def no_tokenizer(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")


def cut(folder: Path) -> None:
    for path in (folder / "checkpoints").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            other_tokenizer,
            "checkpoint: the tokenizer in run/tokenizer is not the one that the checkpoint was made with",
        ),
        (no_tokenizer, "checkpoint: "),
        (cut, "checkpoint: run has no intact checkpoint"),
    ],
)
def test_a_run_folder_whose_parts_do_not_fit(
    told: Told,
    run_infer: Run,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    said: str,
) -> None:
    damage(folder / "run")
    assert run_infer("--checkpoint", "run", "--prompt", "a") == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"tokenizer": None}, "does not name its tokenizer"),
        ({"model": {**MODEL.model_dump(), "n_layers": 2}}, "blocks.1"),
        ({"model": None}, "checkpoint: "),
    ],
)
def test_a_checkpoint_that_does_not_say_what_it_is(
    told: Told, run_infer: Run, folder: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str],
    metadata: dict[str, Any], said: str,
) -> None:  # fmt: skip
    save_run(folder / "odd", tokenizer, metadata=metadata)
    assert run_infer("--checkpoint", "odd", "--prompt", "a") == 2
    assert said in capsys.readouterr().err


def test_a_vocabulary_smaller_than_the_tokenizers(
    told: Told, run_infer: Run, folder: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    save_run(folder / "small", tokenizer, MODEL.model_copy(update={"vocab_size": 290}))
    assert run_infer("--checkpoint", "small", "--prompt", "a") == 2
    assert "the tokenizer has 300 ids, and the model of small 290" in capsys.readouterr().err


def test_texts_that_do_not_fit_the_memory_are_refused(
    told: Told, run_infer: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(told, "memory", lambda step: 1000)
    assert run_infer("--checkpoint", "run", "--prompt", "a", "--logging.file", "log") == 2
    assert "decoding needs at least" in capsys.readouterr().err
    assert not (folder / "log").exists()


# Hugging Face folders


def test_an_exported_model_says_the_same(
    told: Told, run_infer: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["export", "--checkpoint", "run", "--output", "hf"])
    assert export.main() == 0
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in (folder / "hf").iterdir()}
    assert run_infer("--checkpoint", "hf", "--prompt", "a fox") == 0
    assert capsys.readouterr().out == "hf\na fox over the dog\n"
    expected = initial_arrays(MODEL, 1)
    for name, array in expected.items():  # without the 20 ids that the tokenizer does not have
        assert (told.weights[name] == (array[:300] if len(array) == 320 else array)).all(), name


def test_a_folder_without_a_tokenizer_needs_one_named(
    told: Told, run_infer: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_model(folder / "hf", MODEL, initial_arrays(MODEL, 1))
    assert run_infer("--checkpoint", "hf", "--prompt", "a") == 2
    assert "hf has no tokenizer.json: name its tokenizer by the key tokenizer" in capsys.readouterr().err
    assert run_infer("--checkpoint", "hf", "--prompt", "a", "--tokenizer", "tok") == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--checkpoint run", "output: give a folder to write"),
        ("--checkpoint none --output x", "checkpoint: there is no folder none"),
        ("--checkpoint run --output tok", "tok holds "),
        ("--checkpoint words --output x", "a tokenizer of the kind 'words' has no tokenizer.json to export"),
    ],
)
def test_a_mistake_in_an_export_is_one_line(
    told: Told, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: str, said: str
) -> None:
    save_run(folder / "words", train_tokenizer("words", ["a b c"]))
    (folder / "mine").mkdir()
    (folder / "mine/notes.txt").write_text("mine")
    monkeypatch.setattr("sys.argv", ["export", *flags.replace("--output tok", "--output mine").split()])
    assert export.main() == 2
    assert said.replace("tok holds", "mine holds") in capsys.readouterr().err
    assert not (folder / "x").exists()
