"""Documents in memory as ids, by each of three tokenizers: nothing of them is lost."""

from pathlib import Path

import numpy as np
import pytest

from lm_core.errors import UserError
from lm_pipeline.tokens.in_memory import SPECIAL_TOKENS, Kind, encode_documents, learn_tokenizer
from lm_tokenizer.adapters import TextTokenizer, load_tokenizer, source

DOCUMENTS = (
    "Now is the winter of our discontent\n\n  Made glorious summer by this sun of York;\n",
    "def train_model(x):\n\treturn x  # <eos> and <pad> are text here\n",
    "naïve café, 日本語, 🎉\r\n" * 3,
)
LIBRARIES: dict[Kind, str] = {"ours": "lm_tokenizer", "hf": "tokenizers", "sentencepiece": "sentencepiece"}


@pytest.fixture(scope="module", params=LIBRARIES)
def kind(request: pytest.FixtureRequest) -> Kind:
    pytest.importorskip(LIBRARIES[request.param])
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def tokenizer(kind: Kind) -> TextTokenizer:
    return learn_tokenizer(kind, DOCUMENTS * 20, 350)


def test_every_document_comes_back_and_ends_with_the_end_of_text(tokenizer: TextTokenizer) -> None:
    ids = encode_documents(tokenizer, DOCUMENTS)
    ends = np.flatnonzero(ids == tokenizer.special_tokens["<eos>"])
    assert len(ends) == len(DOCUMENTS)
    assert ends[-1] == len(ids) - 1
    parts = np.split(ids, ends + 1)[:-1]
    assert tuple(tokenizer.decode(part[:-1].tolist()) for part in parts) == DOCUMENTS


def test_the_ids_are_those_of_the_documents_one_by_one(tokenizer: TextTokenizer) -> None:
    alone = [[*tokenizer.encode(text, disallowed_special=()), tokenizer.eos_id] for text in DOCUMENTS]
    assert encode_documents(tokenizer, DOCUMENTS).tolist() == [i for ids in alone for i in ids]


def test_it_has_the_special_tokens_and_is_as_large_as_asked(tokenizer: TextTokenizer) -> None:
    assert tokenizer.vocab_size == 350 or tokenizer.name == "sentencepiece"  # which has fewer pieces to take from
    assert {*SPECIAL_TOKENS} - {"<unk>"} <= {*tokenizer.special_tokens}
    assert tokenizer.eos_id == tokenizer.special_tokens["<eos>"]


def test_a_text_that_it_never_saw_comes_back(tokenizer: TextTokenizer) -> None:
    text = "Ünseen: ж 漢 \x01 𝔘\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_it_is_found_again_in_its_folder(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    assert load_tokenizer(f"{tokenizer.name}:{tmp_path}").fingerprint == tokenizer.fingerprint


def test_a_library_is_given_a_long_document_in_parts_and_nothing_is_lost(
    tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(DOCUMENTS) + "a line without an end " * 20
    monkeypatch.setattr(source, "LONGEST_PART", 32)
    ids = encode_documents(tokenizer, [text]).tolist()
    assert tokenizer.decode(ids[:-1]) == text
    if tokenizer.name == "bpe":
        assert ids[:-1] == tokenizer.encode(text, disallowed_special=())


def test_a_vocabulary_that_is_too_small_is_one_line(kind: Kind) -> None:
    with pytest.raises(UserError, match=r"10\b") as caught:
        learn_tokenizer(kind, DOCUMENTS, 10)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_that_is_too_large_for_the_text_gets_smaller(kind: Kind) -> None:
    assert 256 < learn_tokenizer(kind, DOCUMENTS, 5000).vocab_size < 1000


CODE = ("class Area:\n    def of(self, r):\n        return 3 * r\n\n\ndef f():\n    return Area()\n",) * 9


def test_hugging_face_s_tokenizer_of_code_is_ours() -> None:
    pytest.importorskip("tokenizers")
    ours, theirs = learn_tokenizer("ours", CODE, 330), learn_tokenizer("hf", CODE, 330)
    assert encode_documents(ours, CODE).tolist() == encode_documents(theirs, CODE).tolist()
