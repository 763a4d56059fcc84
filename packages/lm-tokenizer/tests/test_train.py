"""Training: the merges of the definition and of Hugging Face's trainer, from any source, by any number of threads."""

import json
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from lm_tokenizer import Tokenizer, TokenizerError, Vocabulary, corpus, reference, tally

TEXT = Path(reference.__file__).read_text() + Path(corpus.__file__).read_text()
MIXED = TEXT + " Größe, naïve; Привет мир, 你好世界 今日は 🙂🙂 1234 ''' \u00a0\u3000\r\n\t" * 5


def learn(
    source: Iterable[str | Path] | Path, size: int, special: tuple[str, ...] = (), **options: object
) -> Vocabulary:
    return Tokenizer.train(source, size, special, progress=False, **options).vocabulary  # type: ignore[arg-type]


def hugging_face(
    texts: list[str], size: int, special: tuple[str, ...] = ()
) -> tuple[list[tuple[int, int]], dict[str, int]]:
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, min_frequency=0, show_progress=False, initial_alphabet=alphabet, special_tokens=list(special)
    )
    model.train_from_iterator(texts, trainer)
    found = json.loads(model.to_str())["model"]
    return [(found["vocab"][a], found["vocab"][b]) for a, b in found["merges"]], found["vocab"]


@pytest.mark.parametrize("size", [256, 257, 300, 1000, 3000])
def test_merges_and_vocabulary_are_hugging_faces(size: int) -> None:
    vocabulary = learn([MIXED], size)
    merges, names = hugging_face([MIXED], size)
    assert list(vocabulary.merges) == merges
    assert len(vocabulary.tokens) == len(names)


def test_on_small_texts_it_is_the_definition_and_hugging_faces() -> None:
    rng = random.Random(0)
    for alphabet in ["ab ", "a", "abc \n", "aé猫 '", "the quick"] * 6:
        texts = ["".join(rng.choices(alphabet, k=rng.choice([1, 20, 150]))) for _ in range(rng.choice([1, 4]))]
        size = rng.choice([258, 270, 330])
        vocabulary = learn(texts, size)
        assert vocabulary.merges == reference.train(texts, size).merges
        assert list(vocabulary.merges) == hugging_face(texts, size)[0]


@pytest.mark.parametrize("pattern", ["cl100k", "o200k", r"\p{L}+|\p{N}"])
def test_other_patterns_are_trained_as_the_definition_says(pattern: str) -> None:
    assert learn([MIXED[-4000:]], 330, pattern=pattern).merges == reference.train([MIXED[-4000:]], 330, pattern).merges


def test_the_result_does_not_depend_on_threads_or_on_how_the_source_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "UNIT", 1000)
    expected = learn([MIXED], 900, threads=1)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "text.txt").write_text(MIXED, newline="")
    (tmp_path / ".hidden").write_text("never read " * 1000)
    for source in (tmp_path, tmp_path / "sub" / "text.txt", [tmp_path / "sub"], [MIXED]):
        for threads in (1, 2, 4):
            assert learn(source, 900, threads=threads).fingerprint == expected.fingerprint
    monkeypatch.setattr(tally, "SEGMENT", 5000)
    assert learn([MIXED], 900, threads=2).fingerprint == expected.fingerprint


def test_a_floor_that_is_too_high_is_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_tokenizer import train

    def high_floor(self: train._Learner, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        self._floor = 10**9

    expected = learn([MIXED], 2000)
    original = train._Learner.__init__
    monkeypatch.setattr(train._Learner, "__init__", high_floor)
    assert learn([MIXED], 2000).merges == expected.merges


def test_special_tokens_cut_the_text_and_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    special = ("<|endoftext|>", "<|pad|>")
    texts = [MIXED[i : i + 700] for i in range(0, len(MIXED), 700)]
    joined = "<|endoftext|>".join(texts) + "<|pad|>"
    expected = learn(texts, 702)
    monkeypatch.setattr(corpus, "UNIT", 1500)
    last = learn([joined], 704, special)
    assert last.merges == expected.merges
    assert dict(last.special_tokens) == {"<|endoftext|>": 702, "<|pad|>": 703}
    first = learn([joined], 704, special, special_tokens_first=True)
    assert dict(first.special_tokens) == {"<|endoftext|>": 0, "<|pad|>": 1}
    merges, names = hugging_face(texts, 704, special)  # which puts them first
    assert list(first.merges) == merges
    assert names["<|pad|>"] == 1


def test_long_pretokens_and_runs_are_trained_right() -> None:
    text = "=" * 3000 + "\n" + "ab" * 700 + " " + "x" * 4097 + "\n" * 90 + "langes" * 40
    assert learn([text], 275).merges == reference.train([text], 275).merges


def test_too_many_distinct_pretokens_lose_the_rarest_alike_for_any_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "MOST_PRETOKENS", 300)
    monkeypatch.setattr(tally, "SEGMENT", 4000)
    monkeypatch.setattr(corpus, "UNIT", 700)
    with pytest.warns(UserWarning, match="more than 300 distinct pretokens"):
        one = learn([MIXED], 500, threads=1)
    with pytest.warns(UserWarning, match="rarest"):
        four = learn([MIXED], 500, threads=4)
    assert one.fingerprint == four.fingerprint


@pytest.mark.parametrize(
    ("source", "size", "options", "message"),
    [
        ([], 300, {}, "the corpus is empty"),
        ([""], 300, {}, "the corpus is empty"),
        (["text"], 255, {}, "vocab_size 255: must be from 256"),
        (["text"], 256, {"special": ("<|a|>",)}, "vocab_size 256: must be from 257"),
        (["text"], 300, {"special": ("",)}, "a special token must be a text of one character or more"),
        (["text"], 300, {"special": ("<|a|>", "<|a|>")}, r"'<\|a\|>' is listed twice"),
        (["te\ud800xt"], 300, {}, r"lone surrogate U\+D800 at character 2"),
        (["text"], 300, {"pattern": "gtp2"}, "unknown pattern 'gtp2': use gpt2"),
        (["text"], 300, {"pattern": "(("}, "is not a regular expression"),
        (["text"], 300, {"pattern": "x*"}, "matches the empty text"),
        (["text"], 300, {"threads": 0}, "threads 0: must be 1 or more"),
        ([b"text"], 300, {}, "document 0 is a bytes"),
    ],
)
def test_a_mistake_is_one_line(source: list[str], size: int, options: dict[str, object], message: str) -> None:
    with pytest.raises(TokenizerError, match=message) as error:
        learn(source, size, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_bytes_that_are_not_utf8_are_named_with_file_and_offset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "UNIT", 1000)
    data = MIXED.encode()
    at = data.index(b" ", 4000)
    (tmp_path / "bad.txt").write_bytes(data[:at] + b"\xfe" + data[at:])
    for pattern in ("gpt2", "cl100k"):
        with pytest.raises(TokenizerError, match=rf"bad\.txt: byte {at} \(0xfe\) is not UTF-8"):
            learn(tmp_path / "bad.txt", 300, pattern=pattern)


def test_linked_folders_are_read_once_and_a_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other/in").mkdir(parents=True)
    (tmp_path / "other/in/a.txt").write_text("a")
    (tmp_path / "texts").mkdir()
    for name, target in (("one", "other"), ("two", "other"), ("loop", "texts")):
        (tmp_path / "texts" / name).symlink_to(tmp_path / target)
    assert corpus.files_in(tmp_path / "texts") == [tmp_path / "texts/one/in/a.txt"]
    with pytest.raises(TokenizerError, match="/dev/zero: is a device or a socket, not a file of text"):
        learn(Path("/dev/zero"), 300)


def test_a_path_that_is_missing_or_vanishes_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"missing\.txt: there is no such file"):
        learn(tmp_path / "missing.txt", 300)
    with pytest.raises(TokenizerError, match="holds no file"):
        learn(tmp_path, 300)
    (tmp_path / "gone.txt").write_text("text")

    def source() -> Iterable[str | Path]:
        yield "some text"
        (tmp_path / "gone.txt").unlink()
        yield tmp_path / "gone.txt"

    with pytest.raises(TokenizerError, match=r"gone\.txt: there is no such file"):
        learn(source(), 300)
