"""Prompts from a pipe, and what a prompt and its text become on the way."""

import io
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import pytest

from lm_core.config import ModelConfig, SamplingConfig
from lm_core.continuation import Continuation
from lm_core.errors import UserError
from lm_pipeline.generation.commands import COMMANDS, Command, help_text, read_line
from lm_pipeline.generation.prompt_loop import run_prompts
from lm_pipeline.generation.settings import NAMES, Settings
from lm_pipeline.generation.writer import Model
from lm_tokenizer.adapters import TextTokenizer, train_tokenizer

LETTERS = "".join(map(chr, range(32, 127))) + "\x1b"


class Drawing:
    """A decoder whose every id is a function of its uniform."""

    ids_per_call = 1

    def __init__(self, vocab_size: int, interrupt_at: int | None = None) -> None:
        self.vocab_size, self.left = vocab_size, interrupt_at
        self.read: list[list[int]] = []

    def prefill(self, row: int, ids: Sequence[int], seen: Collection[int]) -> None:
        self.read.append(list(ids))

    def next_ids(self, uniforms: Sequence[Sequence[float]], sampling: SamplingConfig) -> list[list[int]]:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return [[int(self.vocab_size * u) for u in uniforms[0]]]

    def room(self, row: int) -> int:
        return 1

    def keep(self, rows: Sequence[int]) -> None:
        raise AssertionError("there is one row")


class Saying(Drawing):
    """A decoder that says these ids, and then the last one."""

    def __init__(self, ids: Sequence[int]) -> None:
        super().__init__(0)
        self.ids = list(ids)

    def next_ids(self, uniforms: Sequence[Sequence[float]], sampling: SamplingConfig) -> list[list[int]]:
        return [[self.ids.pop(0) if len(self.ids) > 1 else self.ids[0]]]


def characters() -> TextTokenizer:
    return train_tokenizer("characters", [LETTERS])


def model(tokenizer: TextTokenizer, decoder: Drawing | None = None, seq_len: int = 16) -> Model:
    size = tokenizer.vocab_size
    return Model("tiny", ModelConfig(vocab_size=size, seq_len=seq_len), tokenizer, decoder or Drawing(size))


# A pipe


def test_every_line_is_a_prompt_also_one_with_a_slash(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_prompts(model(characters()), Settings(max_new_tokens=5), io.StringIO("abc\n\n/help\nlast")) == 0
    out, err = capsys.readouterr()
    first, second, third = out.splitlines()
    assert [len(first), len(second), len(third)] == [8, 10, 9]
    assert (first[:3], second[:5], third[:4]) == ("abc", "/help", "last")
    assert err == ""


def test_every_prompt_takes_the_next_seed(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for seed, lines in ((7, "a\na\n"), (8, "a\n"), (7, "a\na\n")):
        run_prompts(model(characters()), Settings(seed=seed), io.StringIO(lines))
        texts.append(capsys.readouterr().out)
    both, second, again = texts
    assert both == again
    assert both.endswith(second)
    assert both != second * 2


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_pipe_is_said(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert run_prompts(model(characters()), Settings(), io.StringIO(text)) == 0
    assert capsys.readouterr() == ("", "no prompts: standard input holds no text\n")


def test_a_line_that_cannot_be_read_is_named_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("a\n東\n".encode() + b"b\xff\nb\n"), "utf-8"))
    assert run_prompts(model(characters()), Settings(max_new_tokens=3)) == 2
    out, err = capsys.readouterr()
    assert [line[0] for line in out.splitlines()] == ["a", "b"]
    character, encoding = err.splitlines()
    assert character.startswith("line 2: the character '東'")
    assert encoding == "line 3: this prompt is not UTF-8 at character 2"


def test_ctrl_c_ends_the_text_and_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = characters()
    decoder = Drawing(tokenizer.vocab_size, interrupt_at=2)
    assert run_prompts(model(tokenizer, decoder), Settings(), io.StringIO("abc\nabc\n")) == 130
    assert len(capsys.readouterr().out) == len("abc") + 2 + len("\n")


def test_what_goes_to_a_file_is_what_the_model_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = characters()
    decoder = Saying(tokenizer.encode("\x1b[2J"))
    run_prompts(model(tokenizer, decoder), Settings(max_new_tokens=4), io.StringIO("a"))
    assert capsys.readouterr().out == "a\x1b[2J\n"


# Prompts


def test_a_long_prompt_is_read_from_its_end_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = characters()
    decoder = Drawing(tokenizer.vocab_size)
    run_prompts(model(tokenizer, decoder, seq_len=4), Settings(max_new_tokens=1), io.StringIO("abcdef"))
    assert decoder.read == [tokenizer.encode("cdef")]
    assert "line 1: note: the prompt has 6 tokens and the model reads 4 at once: only its" in capsys.readouterr().err


def test_unknown_words_are_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = train_tokenizer("words", ["the fox"])
    text = "the slow <unk> fox slow lazy\n" + " ".join(f"w{i}" for i in range(10)) + "\nthe\n"
    run_prompts(model(tokenizer), Settings(max_new_tokens=1), io.StringIO(text))
    first, second = capsys.readouterr().err.splitlines()
    assert first == "line 1: note: not in the vocabulary, and read as <unk>: 'slow', 'lazy'"
    assert second.endswith("'w6', 'w7' and 2 more")


def test_unknown_characters_are_named_where_the_vocabulary_has_an_id_for_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenizer = train_tokenizer("characters", ["abc"], None, ["<unk>"])
    run_prompts(model(tokenizer), Settings(max_new_tokens=1), io.StringIO("ab<unk>é"))
    assert "read as <unk>: 'é'" in capsys.readouterr().err


def test_a_line_end_of_words_is_no_end_and_words_are_spaced(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = train_tokenizer("words", ["the fox jumps"])
    said = tokenizer.encode("fox\njumps")
    for prompt in ("the", "the "):
        run_prompts(model(tokenizer, Saying(said)), Settings(max_new_tokens=3), io.StringIO(prompt))
        assert capsys.readouterr().out == "the fox \njumps \n"


def test_an_end_of_text_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = train_tokenizer("characters", ["abc"], None, ["<|endoftext|>"])
    assert tokenizer.eos_id is not None
    run_prompts(model(tokenizer, Saying([0, tokenizer.eos_id, 1])), Settings(), io.StringIO("c"))
    assert capsys.readouterr().out == "ca\n"


def test_a_prompt_without_tokens_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = train_tokenizer("words", ["the fox"])
    assert run_prompts(model(tokenizer), Settings(), io.StringIO("  \n")) == 2
    assert "line 1: this prompt has no tokens" in capsys.readouterr().err


def test_a_judge_reads_what_was_typed_and_ends_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = train_tokenizer("characters", ["abc"], None, ["<|endoftext|>"])
    assert tokenizer.eos_id is not None

    def judge(typed: str) -> tuple[str, Callable[[Continuation], str]]:
        if typed == "no":
            raise UserError("not a problem")
        return typed[::-1], lambda written: f" {written.text!r} {written.reason}"

    judged = replace(model(tokenizer, Saying([0, tokenizer.eos_id])), judge=judge)
    assert run_prompts(judged, Settings(), io.StringIO("no\nbc")) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("cba 'a' end_of_text\n", "line 1: not a problem\n")


# Lines of a person


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ("a text", "a text"),
        (" /help", " /help"),
        ("//usr", "/usr"),
        ("/help ", Command("help", "")),
        ("/top-k  40 ", Command("top_k", "40")),
        ("/stop a b ", Command("stop", "a b ")),
    ],
)
def test_a_line_is_a_text_or_a_command(line: str, read: Command | str) -> None:
    assert read_line(line) == read


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/temprature 1", "unknown command /temprature; did you mean /temperature?"),
        ("/Help", "unknown command /Help; did you mean /help?"),
        ("/", "unknown command /; /help lists them, and // starts a text with /"),
    ],
)
def test_an_unknown_command_is_one_line(line: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        read_line(line)
    assert str(error.value) == said


def test_help_has_every_command_and_setting_within_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = help_text()
    assert all(f"  {command}" in text for command in COMMANDS)
    assert {f"/{name}" for name in NAMES} < set(COMMANDS)
    assert "next seed" in text
    assert max(len(line) for line in text.splitlines()[1:-2]) < 80
