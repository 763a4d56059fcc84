import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_tokenizer import formats, reference
from lm_tokenizer.adapters import TextTokenizer, load_tokenizer, train_tokenizer
from lm_tokenizer.errors import SpecialTokenError, TokenizerError
from lm_tokenizer.vocab import Vocabulary, with_special_tokens

END, OTHER = "<|endoftext|>", "<|o\u65e5|>"
KINDS = ["bpe", "hf", "tiktoken", "sentencepiece", "sentencepiece-bpe", "characters", "words"]
# Kinds that give every text back; words keep no white space, characters know those of their corpus alone.
EXACT = ["bpe", "hf", "tiktoken", "sentencepiece", "sentencepiece-bpe"]


@pytest.fixture(scope="module")
def make(text: str, plain: Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TextTokenizer]:
    """A small tokenizer of a kind, with two special tokens."""
    special = with_special_tokens(plain.tokens, plain.merges, [END, OTHER], "gpt2")
    made: dict[str, TextTokenizer] = {}

    def build(kind: str) -> TextTokenizer:
        if kind in ("bpe", "hf", "tiktoken"):
            folder = tmp_path_factory.mktemp(kind)
            formats.save(special, folder)
            if kind != "tiktoken":
                _needs(kind)
                return load_tokenizer(f"{kind}:{folder}")
            _needs("tiktoken")
            from lm_tokenizer.adapters.tiktoken import TiktokenTokenizer
            from lm_tokenizer.pretokenize import expression_of

            return TiktokenTokenizer(special.id_of_bytes, expression_of("gpt2"), special.special_tokens)
        if kind.startswith("sentencepiece"):
            _needs("sentencepiece")
            model_type = "bpe" if kind.endswith("bpe") else "unigram"
            return train_tokenizer("sentencepiece", [text], 420, [END, OTHER], model_type=model_type)
        return train_tokenizer(kind, [text], None, [END, OTHER])

    def cached(kind: str) -> TextTokenizer:
        if kind not in made:
            made[kind] = build(kind)
        return made[kind]

    return cached


def _needs(kind: str) -> None:
    if kind != "bpe":
        pytest.importorskip({"hf": "tokenizers"}.get(kind, kind))


EVERY = pytest.mark.parametrize("kind", KINDS)
PARTS = [" the", "The", "'s", "12345", "  ", "\n", " \t\r\n", "\u00e9", "\u65e5\u672c", "\U0001f600", "<0x41>", "\0"]
ANY = st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")  # which is a space to SentencePiece
TEXTS = st.lists(st.one_of(st.sampled_from(PARTS), ANY), max_size=12).map("".join)


# The protocol


@EVERY
def test_every_kind_satisfies_the_protocol(make: Any, kind: str, text: str) -> None:
    tokenizer = make(kind)
    assert isinstance(tokenizer, TextTokenizer)
    assert tokenizer.name == kind.partition("-")[0]
    assert {END, OTHER} <= tokenizer.special_tokens.keys()
    assert tokenizer.eos_id == tokenizer.special_tokens["<eos>" if kind == "words" else END]
    ids = tokenizer.encode(text)
    array = tokenizer.encode_array(text)
    assert array.dtype == np.uint16
    assert array.tolist() == ids
    assert set(map(type, ids)) == {int}
    assert max(ids) < tokenizer.vocab_size
    assert tokenizer.byte_lengths.dtype == np.int64
    assert tokenizer.byte_lengths.shape == (tokenizer.vocab_size,)
    assert tokenizer.encode("") == []
    assert tokenizer.encode_array("").shape == (0,)
    assert tokenizer.decode([]) == ""


@EVERY
def test_a_text_comes_back_and_its_bytes_are_counted(make: Any, kind: str, text: str) -> None:
    tokenizer = make(kind)
    ids = tokenizer.encode(text)
    back = tokenizer.decode(ids)
    assert back == text if kind != "words" else back.split() == text.split()
    assert tokenizer.byte_lengths[ids].sum() == len(back.encode())


@settings(max_examples=25, deadline=None)
@given(text=TEXTS)
@pytest.mark.parametrize("kind", EXACT)
def test_any_text_comes_back_and_its_bytes_are_counted(make: Any, kind: str, text: str) -> None:
    tokenizer = make(kind)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.byte_lengths[ids].sum() == len(text.encode())


@EVERY
def test_a_special_token_counts_what_it_adds_to_the_text(make: Any, kind: str) -> None:
    tokenizer = make(kind)
    for token_id in tokenizer.special_tokens.values():
        assert tokenizer.byte_lengths[token_id] == len(tokenizer.decode([token_id]).encode())


@EVERY
def test_saved_and_loaded_it_is_the_same(make: Any, kind: str, text: str, tmp_path: Path) -> None:
    tokenizer = make(kind)
    tokenizer.save(tmp_path)
    name = tokenizer.name
    for again in (load_tokenizer(f"{name}:{tmp_path}"), pickle.loads(pickle.dumps(tokenizer))):
        assert type(again) is type(tokenizer)
        assert again.fingerprint == tokenizer.fingerprint
        assert again.special_tokens == tokenizer.special_tokens
        assert again.encode(text) == tokenizer.encode(text)
    recognized = load_tokenizer(tmp_path)
    assert recognized.name == ("bpe" if name == "hf" else name)  # this package reads what Hugging Face's library wrote
    assert recognized.encode(text) == tokenizer.encode(text)


@EVERY
def test_a_special_token_in_the_text_is_the_callers_to_choose(make: Any, kind: str) -> None:
    tokenizer = make(kind)
    end = tokenizer.special_tokens[END]
    if kind == "words":
        assert tokenizer.encode(f"the {END}")[-1] == end
        return
    the = tokenizer.encode("the")
    with pytest.raises(SpecialTokenError, match="at character 3"):
        tokenizer.encode(f"the{END}")
    assert tokenizer.encode(f"the{END}the", allowed_special="all") == [*the, end, *the]
    assert tokenizer.encode_array(END, allowed_special={END}).tolist() == [end]
    if kind != "characters":
        as_text = tokenizer.encode(f"the{END}", disallowed_special=())
        assert end not in as_text
        assert tokenizer.decode(as_text) == f"the{END}"


@EVERY
@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_an_id_outside_the_vocabulary_is_named(make: Any, kind: str, wrong: int) -> None:
    with pytest.raises(TokenizerError, match=rf"{wrong}\b.*position 1") as caught:
        make(kind).decode([0, wrong])
    assert "\n" not in str(caught.value)


@EVERY
def test_a_lone_surrogate_is_refused(make: Any, kind: str) -> None:
    with pytest.raises(TokenizerError, match=r"surrogate.*character 2"):
        make(kind).encode("th\ud800")


# By name


def test_what_is_not_known_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("text")
    unknown: list[tuple[str | Path, str]] = [
        ("bert-base", "there is no tokenizer 'bert-base'"),
        (tmp_path, "no tokenizer is in this folder"),
        (tmp_path / "x.txt", "no tokenizer is recognized"),
        (f"words:{tmp_path}", r"words\.json: there is no such file"),
    ]
    for name, says in unknown:
        with pytest.raises(TokenizerError, match=says):
            load_tokenizer(name)
    with pytest.raises(TokenizerError, match="there is no trainer for 'tiktoken'"):
        train_tokenizer("tiktoken", ["text"], 300)
    with pytest.raises(TokenizerError, match="needs a vocab_size"):
        train_tokenizer("bpe", ["text"])


@pytest.mark.parametrize(
    ("kind", "library", "file"),
    [("hf", "tokenizers", "tokenizer.json"), ("sentencepiece", "sentencepiece", "tokenizer.model"),
     ("tiktoken", "tiktoken", "x.tiktoken")],
)  # fmt: skip
def test_a_missing_library_is_named_with_its_cure(
    kind: str, library: str, file: str, plain: Vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats.save(plain, tmp_path)
    formats.write_tiktoken(plain, tmp_path / "x.tiktoken")
    (tmp_path / "tokenizer.model").write_bytes(b"")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(TokenizerError, match=f"{library} is not installed: pip install {library}$"):
        load_tokenizer(f"{kind}:{tmp_path / file}")


def test_libraries_are_imported_by_the_adapters_that_need_them() -> None:
    code = (
        "import sys, lm_tokenizer.adapters as a; a.train_tokenizer('words', ['a']);"
        "print(*{'tokenizers', 'sentencepiece', 'tiktoken', 'numba', 'transformers', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_file_or_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"one\ntwo \xff\n")
    for kind in ("words", "characters"):
        with pytest.raises(TokenizerError, match=r"bad\.txt: not UTF-8 at byte 8"):
            train_tokenizer(kind, tmp_path)
        with pytest.raises(TokenizerError, match="no such file or folder"):
            train_tokenizer(kind, tmp_path / "nowhere")
        with pytest.raises(TokenizerError, match="nothing to learn from"):
            train_tokenizer(kind, [])


# Hugging Face


def test_decoders_of_sentencepiece_kind_count_their_bytes(text: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import decoders, models, pre_tokenizers, trainers

    from lm_tokenizer.adapters.huggingface import HuggingFaceTokenizer

    peer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    peer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    peer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    bytes_first = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    peer.train_from_iterator(
        ["the text and the tokens"],
        trainers.BpeTrainer(vocab_size=300, special_tokens=bytes_first, show_progress=False),
    )
    tokenizer = HuggingFaceTokenizer(peer)
    some = "the text, \u00e9 \U0001f600 the"
    ids = tokenizer.encode(some)
    assert tokenizer.decode(ids) == some
    assert tokenizer.byte_lengths[ids].sum() == len(some.encode())


def test_a_decoder_whose_bytes_are_not_known_says_so() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    from lm_tokenizer.adapters.huggingface import HuggingFaceTokenizer

    peer = tokenizers.Tokenizer(tokenizers.models.WordPiece({"a": 0, "##b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    peer.decoder = tokenizers.decoders.WordPiece()
    with pytest.raises(TokenizerError, match="not known for the decoder WordPiece"):
        _ = HuggingFaceTokenizer(peer).byte_lengths


def test_another_sort_of_tokenizer_json_is_taken_by_hugging_faces_library(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    peer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    peer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    peer.enable_truncation(1)
    peer.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.name == "hf"
    assert tokenizer.encode("a b b") == [0, 1, 1]
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


# SentencePiece


def test_sentencepiece_says_why_it_cannot_learn_or_read(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    with pytest.raises(TokenizerError, match="cannot learn 10 pieces") as caught:
        train_tokenizer("sentencepiece", ["some text"], 10)
    assert "\n" not in str(caught.value)
    with pytest.raises(TokenizerError, match="cannot learn 300 pieces"):
        train_tokenizer("sentencepiece", [], 300)
    (tmp_path / "x.model").write_bytes(b"not a model")
    with pytest.raises(TokenizerError, match=r"x\.model: .*not a SentencePiece model"):
        load_tokenizer(tmp_path / "x.model")


def test_a_models_own_space_before_a_text_is_counted(tmp_path: Path, text: str) -> None:
    library = pytest.importorskip("sentencepiece")
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(text.splitlines()), model_prefix=str(tmp_path / "m"), vocab_size=160, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    tokenizer = load_tokenizer(tmp_path / "m.model")
    ids = tokenizer.encode("the text")
    assert tokenizer.decode(ids) == "the text"
    assert tokenizer.byte_lengths[ids].sum() == len(" the text")
    assert tokenizer.special_tokens == {"<s>": 1, "</s>": 2}
    assert tokenizer.eos_id == 2


# tiktoken


def test_ranks_by_path_are_encoded_by_tiktoken_as_by_this_package(plain: Vocabulary, tmp_path: Path, text: str) -> None:
    pytest.importorskip("tiktoken")
    formats.write_tiktoken(plain, tmp_path / "mine.tiktoken")
    peer, own = load_tokenizer(f"tiktoken:{tmp_path / 'mine.tiktoken'}"), load_tokenizer(tmp_path / "mine.tiktoken")
    assert (peer.name, own.name) == ("tiktoken", "bpe")
    assert peer.encode(text) == own.encode(text) == reference.encode(text, plain)


def test_an_unknown_encoding_is_one_line() -> None:
    pytest.importorskip("tiktoken")
    with pytest.raises(TokenizerError, match="tiktoken has no encoding 'gpt9' here") as caught:
        load_tokenizer("tiktoken:gpt9")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("[]", "should have a `pattern`"),
        ('{"pattern": "(", "special_tokens": {}}', "cannot make this encoding"),
        ('{"pattern": ".", "special_tokens": {"<s>": "1"}}', "cannot make this encoding"),
        ('{"pattern": ".", "special_tokens": {"": 500}}', "one character or more"),
    ],
)
def test_malformed_settings_of_tiktoken_are_refused(make: Any, tmp_path: Path, settings: str, says: str) -> None:
    make("tiktoken").save(tmp_path)
    (tmp_path / "tiktoken.json").write_text(settings)
    with pytest.raises(TokenizerError, match=says) as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)
    (tmp_path / "x.tiktoken").write_bytes(b"YQ== 0\n")
    with pytest.raises(TokenizerError, match=r"x\.tiktoken: .* not byte-level"):
        load_tokenizer(f"tiktoken:{tmp_path / 'x.tiktoken'}")


# Characters


def test_characters_are_in_the_order_of_their_code_points() -> None:
    tokenizer = train_tokenizer("characters", ["ba\u00e9\U0001f600", "a\n"], None, [END])
    assert tokenizer.encode("\nab\u00e9\U0001f600") == [0, 1, 2, 3, 4]
    assert tokenizer.special_tokens == {END: 5}
    assert tokenizer.byte_lengths.tolist() == [1, 1, 1, 2, 4, len(END)]


def test_an_unknown_character_is_an_error_or_unk() -> None:
    with pytest.raises(TokenizerError, match="the character 'z', after 'ab', is not in the vocabulary"):
        train_tokenizer("characters", ["ab"]).encode("abz")
    tokenizer = train_tokenizer("characters", ["aab"], 2, ["<unk>"])
    assert tokenizer.encode("abz") == [0, 1, 1]
    assert tokenizer.decode([0, 1]) == "a<unk>"
    with pytest.raises(TokenizerError, match="2 different characters, which 1 ids cannot hold"):
        train_tokenizer("characters", ["ab"], 1)


# Words


def test_words_are_counted_as_the_penn_treebank_is() -> None:
    tokenizer = train_tokenizer("words", [" the cat <unk> \n the dog the \n\n"])
    assert tokenizer.special_tokens == {"<unk>": 0, "<eos>": 1}
    assert tokenizer.encode(" the dog\nsat <unk>\n") == [2, 4, 1, 0, 0, 1]
    assert tokenizer.decode([2, 3, 1, 0]) == "the cat \n<unk> "
    assert tokenizer.byte_lengths.tolist() == [6, 1, 4, 4, 4]
    assert tokenizer.eos_id == 1


def test_the_most_frequent_words_are_kept_and_ties_are_in_the_order_of_their_text() -> None:
    tokenizer = train_tokenizer("words", ["b a c c d"], 5, ["<eos>"])
    assert tokenizer.decode([2, 3, 4]) == "c a b "
    with pytest.raises(TokenizerError, match="2 special tokens and a word need more"):
        train_tokenizer("words", ["a"], 2)


def test_files_folders_and_texts_are_all_corpora(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("b c\n", encoding="utf-8")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("a b c", encoding="utf-8")
    sources: list[Any] = [tmp_path, [tmp_path], [tmp_path / "b.txt", "a b\u2028c"], ["b\rc\nc\x1ca", "b"]]
    for source in sources:
        assert train_tokenizer("words", source).encode("b c a") == [2, 3, 4]


@pytest.mark.parametrize(
    ("kind", "content"),
    [("words", '{"kind": "words", "words": ["a", "a"], "special_tokens": []}'),
     ("words", '{"kind": "words", "words": ["a b"], "special_tokens": []}'),
     ("words", '{"kind": "words", "words": [1], "special_tokens": []}'),
     ("words", '{"kind": "words"'), ("words", "[]"),
     ("characters", '{"kind": "characters", "characters": "aa", "special_tokens": []}'),
     ("characters", '{"kind": "characters", "characters": "", "special_tokens": []}'),
     ("characters", '{"kind": "characters", "characters": "a", "special_tokens": [""]}'),
     ("characters", "{}")],
)  # fmt: skip
def test_malformed_vocabularies_are_one_line_that_names_the_file(kind: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / f"{kind}.json"
    path.write_text(content)
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer(f"{kind}:{path}")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
