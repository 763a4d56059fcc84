import pickle
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.pretokenize import PATTERNS
from lm_tokenizer.vocab import (
    BYTE_ORDER,
    Vocabulary,
    check_special_tokens,
    from_printable,
    printable,
    with_special_tokens,
)

BYTES = [bytes([byte]) for byte in BYTE_ORDER]
A, B, C = (BYTES.index(letter) for letter in (b"a", b"b", b"c"))


@given(st.binary())
def test_printable_names_come_back(token: bytes) -> None:
    name = printable(token)
    assert len(name) == len(token)
    assert name.isprintable()
    assert " " not in name
    assert from_printable(name) == token


def test_printable_names_are_gpt2s() -> None:
    assert printable(b" the\n") == "\u0120the\u010a"
    with pytest.raises(TokenizerError, match="' ', which stands for no byte"):
        from_printable("a b")


def test_a_vocabulary_knows_ids_ranks_and_products() -> None:
    vocabulary = Vocabulary([*BYTES, b"ab", b"abc"], [(A, B), (256, C)])
    assert vocabulary.id_of_bytes[b"abc"] == 257
    assert list(vocabulary.merged_ids) == [256, 257]
    assert vocabulary.ranks == {(A, B): 0, (256, C): 1}


def test_unused_ids_are_allowed_and_have_no_bytes() -> None:
    vocabulary = Vocabulary([*BYTES, b"", b"ab"], [(A, B)])
    assert b"" not in vocabulary.id_of_bytes
    assert list(vocabulary.merged_ids) == [257]


@pytest.mark.parametrize(
    ("tokens", "merges", "special", "says"),
    [
        (BYTES[1:], [], {}, "no token for 1 of the 256 bytes, the first is 0x21"),
        ([*BYTES, b"a"], [], {}, "b'a' is in the vocabulary twice"),
        ([*BYTES, b"", b"zz"], [(256, A)], {}, "merge 0 names an id that is not used"),
        ([*BYTES, b""], [], {}, "the last id of the vocabulary is not used"),
        (BYTES, [(A, 256)], {}, "merge 0 names an id outside the vocabulary"),
        (BYTES, [(A, -1)], {}, "merge 0 names an id outside the vocabulary"),
        (BYTES, [(A, B)], {}, "do not belong together: merge 0 joins 'a' and 'b'"),
        ([*BYTES, b"<s>"], [], {"<s>": 255}, "which is not its own"),
        ([*BYTES, b"<s>"], [], {"<s>": 300}, "which is not its own"),
        ([*BYTES, b"<s>"], [], {"<s>": 256, "": 1}, "must be a text of one character or more"),
    ],
)
def test_what_does_not_belong_together_is_refused(tokens, merges, special, says) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TokenizerError, match=says) as caught:
        Vocabulary(tokens, merges, special)
    assert "\n" not in str(caught.value)


def test_a_custom_pattern_is_checked_when_the_vocabulary_is_made() -> None:
    with pytest.raises(TokenizerError, match="regular expression"):
        Vocabulary(BYTES, [], {}, "(")


def test_special_tokens_are_not_ordinary_ones() -> None:
    vocabulary = Vocabulary([b"<s>", *BYTES, b"</s>"], [], {"</s>": 257, "<s>": 0})
    assert list(vocabulary.special_tokens) == ["<s>", "</s>"]
    assert b"<s>" not in vocabulary.id_of_bytes


@pytest.mark.parametrize("special", [["", "a"], ["a", "a"], ["\ud800"], [7]])
def test_special_tokens_that_no_text_could_tell_apart_are_refused(special: list[str]) -> None:
    with pytest.raises(TokenizerError):
        check_special_tokens(special)


def test_special_tokens_keep_their_ids_or_get_the_next() -> None:
    made = with_special_tokens([*BYTES, b"<s>", b"ab"], [(A, B)], ["<pad>", "<s>"], "gpt2")
    assert made.special_tokens == {"<s>": 256, "<pad>": 258}
    assert with_special_tokens([*BYTES, b"ab"], [(A, B)], ["ab"], "gpt2").special_tokens == {"ab": 257}


def test_the_fingerprint_is_of_all_that_decides_the_ids(vocabulary: Vocabulary) -> None:
    other = {"gpt2": "o200k", "cl100k": "gpt2", "o200k": "cl100k"}[vocabulary.pattern]
    swapped = [vocabulary.merges[1], vocabulary.merges[0], *vocabulary.merges[2:]]
    changed = [
        replace(vocabulary, pattern=other),
        replace(vocabulary, merges=swapped),
        replace(vocabulary, tokens=[*vocabulary.tokens, b"\xff\xfe"]),
        replace(vocabulary, special_tokens={"<|endoftext|>": 398}),
    ]
    prints = {v.fingerprint for v in changed}
    assert len(prints) == len(changed)
    assert vocabulary.fingerprint not in prints


def test_a_pattern_has_the_same_fingerprint_by_name_and_by_expression(vocabulary: Vocabulary) -> None:
    assert replace(vocabulary, pattern=PATTERNS[vocabulary.pattern]).fingerprint == vocabulary.fingerprint


def test_a_vocabulary_is_immutable_and_can_be_pickled(vocabulary: Vocabulary) -> None:
    with pytest.raises(FrozenInstanceError):
        vocabulary.pattern = "gpt2"  # type: ignore[misc]
    with pytest.raises(TypeError):
        vocabulary.special_tokens["<s>"] = 1  # type: ignore[index]
    assert pickle.loads(pickle.dumps(vocabulary)) == vocabulary
