"""A model is trained on own text, resumed, and continues a prompt: the same on both backends."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mini_gpt import sample, train

SMALL = (
    "--vocab_size 300 --block_size 8 --n_layer 1 --n_embed 8 --n_head 2 --batch_size 2 --max_steps 4 --warmup_steps 1"
    " --eval_every 2 --save_every 2 --log_every 1 --sample 4"
)
Call = Callable[[str], tuple[int, str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run in a folder of its own, with its text."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("mini")
    (folder / "text.txt").write_text("ROMEO: what light through yonder window breaks\n" * 60)
    train.run(f"--data_file {folder}/text.txt {SMALL} --backend torch --save_dir {folder}/run".split())
    return folder


@pytest.fixture
def call(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a program beside a copy of the complete run; returns its exit code and all it printed."""
    shutil.copytree(trained / "run", tmp_path / "runs" / "mini_gpt" / "one")
    monkeypatch.chdir(tmp_path)

    def run(words: str) -> tuple[int, str]:
        program, *flags = words.split()
        monkeypatch.setattr(sys, "argv", [program, *flags])
        code = {"train_bpe": train.main, "sample_bpe": sample.main}[program]()
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def losses(folder: Path) -> list[float]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record["loss_nats"] for record in records if record["kind"] == "train"]


def test_the_folder_has_all_that_a_run_has_and_a_perplexity(trained: Path) -> None:
    names = {path.name for path in (trained / "run").iterdir()}
    assert names >= {
        "config.toml",
        "metrics.jsonl",
        "checkpoints",
        "tokenizer",
        "samples.txt",
        "report.html",
        "result.json",
    }
    assert '"perplexity"' in (trained / "run" / "metrics.jsonl").read_text()


def test_the_curve_is_the_same_on_the_other_backend(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlx.core")
    train.run(f"--data_file {trained}/text.txt {SMALL} --backend mlx --save_dir {tmp_path}/run".split())
    assert losses(tmp_path / "run") == pytest.approx(losses(trained / "run"), abs=1e-4)


def test_both_backends_write_the_same_text_and_the_newest_run_is_found(call: Call) -> None:
    pytest.importorskip("mlx.core")
    texts = []
    for backend in ("torch", "mlx"):
        code, said = call(f"sample_bpe --prompt ROMEO: --max_new_tokens 12 --backend {backend}")
        assert code == 0
        texts.append(said[said.index("ROMEO:") : said.rindex(";")].rsplit("\n", 1)[0])
    assert texts[0] == texts[1] != ""


def test_more_candidates_than_tokens_are_clamped_and_that_is_reported(call: Call) -> None:
    code, said = call("sample_bpe --prompt ROMEO: --max_new_tokens 2 --top_k 5000 --backend torch")
    assert code == 0
    assert "top_k 5,000 is above the vocabulary" in said


def test_a_prompt_in_characters_that_were_never_seen_is_continued(call: Call) -> None:
    code, said = call(
        "sample_bpe --prompt 日本 --max_new_tokens 2 --ckpt runs/mini_gpt/one/mini_gpt_last --backend torch"
    )
    assert code == 0
    assert "日本" in said


def test_a_complete_run_is_resumed_with_more_steps_and_its_own_tokenizer(call: Call, trained: Path) -> None:
    before = Path("runs/mini_gpt/one/tokenizer/tokenizer.json").read_bytes()
    (trained / "text.txt").touch()
    code, said = call("train_bpe --resume --max_steps 6")
    assert code == 0
    assert "learning a tokenizer" not in said
    assert len(losses(Path("runs/mini_gpt/one"))) == 6
    assert Path("runs/mini_gpt/one/tokenizer/tokenizer.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train_bpe --resume --tokenizer hf", "tokenizer is ours in the run and hf here"),
        ("train_bpe --resume --vocab_size 290", "vocab_size is 300 in the run and 290 here"),
        ("train_bpe --resume --save_dir nothing", "holds no run to resume"),
        ("sample_bpe --ckpt nowhere", "there is no folder nowhere"),
        ("sample_bpe --ckpt nowhere/bpe_best", "there is no folder nowhere"),
        ("sample_bpe --temperature -1", "--temperature"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(call: Call, words: str, said: str) -> None:
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file() and path.name != "lock"}

    before = content()
    code, printed = call(words)
    assert code == 2
    assert said in printed
    assert content() == before


def test_a_checkpoint_without_its_tokenizer_is_refused(call: Call) -> None:
    shutil.rmtree("runs/mini_gpt/one/tokenizer")
    code, said = call("sample_bpe --backend torch")
    assert code == 2
    assert "tokenizer" in said.splitlines()[-1]
