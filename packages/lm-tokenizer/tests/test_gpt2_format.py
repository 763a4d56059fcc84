"""GPT-2's vocab.json and merges.txt: what is tolerated, and every kind of damage."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lm_tokenizer import formats
from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.vocab import Vocabulary


@pytest.fixture
def gpt2(plain: Vocabulary, tmp_path: Path) -> tuple[Path, Path]:
    formats.write_gpt2(plain, tmp_path)
    return tmp_path / "vocab.json", tmp_path / "merges.txt"


def test_special_tokens_that_the_files_lack_get_the_next_ids(gpt2: tuple[Path, Path]) -> None:
    ids = json.loads(gpt2[0].read_text(encoding="utf-8"))
    gpt2[0].write_text(json.dumps(ids | {"<s>": 401}), encoding="utf-8")
    assert formats.read_gpt2(*gpt2).special_tokens == {"<s>": 401}
    assert formats.read_gpt2(*gpt2, ["<pad>", "<s>", "\u00e9"]).special_tokens == {
        "<s>": 401,
        "<pad>": 402,
        "\u00e9": 403,
    }


def test_carriage_returns_and_a_missing_first_line_are_tolerated(gpt2: tuple[Path, Path], plain: Vocabulary) -> None:
    lines = gpt2[1].read_text(encoding="utf-8").splitlines()
    for text in ("\r\n".join(lines), "\n".join(lines[1:]), "\ufeff" + "\n".join(lines) + "\n\n"):
        gpt2[1].write_bytes(text.encode())
        assert formats.read_gpt2(*gpt2) == plain


VOCABULARIES: dict[str, tuple[Callable[[str], str | bytes], str]] = {
    "empty": (lambda s: "", "not JSON at line 1"),
    "cut": (lambda s: s[:-100], "not JSON at line 1, column .*cut short"),
    "no object": (lambda s: "[1]", "this is not a vocabulary"),
    "empty object": (lambda s: "{}", "this is not a vocabulary"),
    "deep": (lambda s: "[" * 100_000, "not JSON"),
    "a long number": (lambda s: '{"a": ' + "1" * 5000 + "}", "not JSON"),
    "not UTF-8": (lambda s: s.encode() + b"\xff", "not UTF-8 at byte"),
    "a text for an id": (lambda s: s.replace('"!":0', '"!":"0"'), "the id of '!' is '0'"),
    "a truth for an id": (lambda s: s.replace('"!":0', '"!":false'), "the id of '!' is False"),
    "a fraction for an id": (lambda s: s.replace('"!":0', '"!":0.0'), "the id of '!' is 0.0"),
    "negative": (lambda s: s.replace('"!":0', '"!":-1'), "the id of '!' is -1"),
    "huge": (lambda s: s.replace('"!":0', '"!":1000000000000'), "the id of '!' is 1000000000000"),
    "twice": (lambda s: s.replace('"!":0', '"!":1'), "'!' and '\"' have the same id, 1"),
    "a byte is missing": (lambda s: s.replace('"!":0', '"!!":0'), "no merge makes the token '!!'"),
    "another vocabulary": (lambda s: json.dumps({"a": 0, "b": 1}), "merges.txt, line 2: .* do not belong together"),
}
MERGES: dict[str, tuple[Callable[[str], str | bytes], str]] = {
    "empty": (lambda s: "", "no merge makes the token .* cut short"),
    "cut in a line": (lambda s: s[: s.rindex(" ")], r"line 145: a merge is two tokens .* cut short"),
    "cut in a word": (lambda s: s[: s.rindex(" ") + 1], r"line 145: a merge is two tokens .* cut short"),
    "cut between lines": (lambda s: s[: s.rindex("\n", 0, len(s) // 2) + 1], "no merge makes the token .* cut short"),
    "three words": (lambda s: s + "a b c\nd\n", "line 146: a merge is two tokens .* not 'a b c'"),
    "two spaces": (lambda s: s + "a  b\n", "line 146: a merge is two tokens"),
    "an empty line": (lambda s: s.replace("\n", "\n\n", 1), "line 2: a merge is two tokens"),
    "an unknown part": (lambda s: s + "zz a\n", "line 146: the merge of 'zz' and 'a' needs the token 'zz'"),
    "an unknown product": (lambda s: s + "z z\n", "line 146: the merge of 'z' and 'z' needs the token 'zz'"),
    "not UTF-8": (lambda s: s.encode() + b"\xff", "not UTF-8 at byte"),
}  # fmt: skip


@pytest.mark.parametrize("name", [f"vocab: {name}" for name in VOCABULARIES] + [f"merges: {name}" for name in MERGES])
def test_malformed_files_are_one_line_that_names_file_and_place(gpt2: tuple[Path, Path], name: str) -> None:
    which, _, case = name.partition(": ")
    path = gpt2[which == "merges"]
    damage, says = (MERGES if which == "merges" else VOCABULARIES)[case]
    damaged = damage(path.read_text(encoding="utf-8"))
    path.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    with pytest.raises(TokenizerError, match=says) as caught:
        formats.read_gpt2(*gpt2)
    assert str(gpt2[0].parent) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(gpt2: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"nowhere\.json: there is no such file"):
        formats.read_gpt2(tmp_path / "nowhere.json", gpt2[1])
    with pytest.raises(TokenizerError, match="this is a folder"):
        formats.read_gpt2(gpt2[0], tmp_path)
    with pytest.raises(TokenizerError, match="/dev/zero: this is a device, where a file is wanted"):
        formats.read_gpt2(gpt2[0], Path("/dev/zero"))
    with pytest.raises(TokenizerError, match=r"the folder has no tokenizer\.json"):
        formats.load(tmp_path.parent)
    with pytest.raises(TokenizerError, match="there is no such file"):
        formats.load(tmp_path / "nowhere")
    with pytest.raises(TokenizerError, match="no tokenizer is recognized"):
        formats.load(gpt2[1])


def test_a_token_that_no_merge_makes_cannot_be_written(plain: Vocabulary, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no merge makes the token 'zqzq'"):
        formats.write_gpt2(Vocabulary([*plain.tokens, b"zqzq"], plain.merges), tmp_path)
