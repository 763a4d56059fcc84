import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.pretokenize import PATTERNS, expression_of, name_of, shadow, splitter
from lm_tokenizer.vocab import from_printable

PARTS = [
    *["'s", "'S", "'\u017f", "'ll", "'LL", "'lL", "'Ve", "'rE", "'d", "'D", "'t", "'m", "'x", "'", "''"],
    *["a", "ab", "Ab", "aB", "ABc", "ABC", "aBC", "\u01c5", "\u02b0", "\u00aa", "\u00df", "\u017f", "\u0130"],
    *["\u00e9", "e\u0301", "\u65e5\u672c", "\uac00", "\U00020000", "\u0928\u093f", "\u0120"],
    *["1", "12", "123", "1234567", "\u00bd", "\u0663", "\u2167"],
    *["/", "//", "--", "...", "!?", "_", "\u2581", "\u200d", "\u200b", "\ufeff", "\ufffd", "\ufffe", "\xad", "\x7f"],
    *["\U0001f600", "\U0001f469\u200d\U0001f467", "\U0010ffff", "\U000f0000", "\0", "\x1c", "\x1f"],
]
SPACES = [" ", "  ", "\n", "\n\n", "\r\n", "\r", "\t", "\x0b", "\x0c", "\x85", "\xa0", "\u1680", "\u2003", "\u2028",
          "\u2029", "\u202f", "\u205f", "\u3000"]  # fmt: skip
TEXTS = st.lists(
    st.one_of(st.sampled_from(PARTS), st.sampled_from(SPACES), st.characters(exclude_categories=["Cs"])), max_size=20
).map("".join)
PUBLISHED = pytest.mark.parametrize("name", PATTERNS)


@PUBLISHED
@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_the_pretokens_are_the_text(name: str, text: str) -> None:
    pretokens = splitter(name)(text)
    assert "".join(pretokens) == text
    assert "" not in pretokens


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_gpt2_pretokens_are_those_of_byte_level(text: str) -> None:
    peer = pytest.importorskip("tokenizers").pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert splitter("gpt2")(text) == [from_printable(pretoken).decode() for pretoken, _ in peer.pre_tokenize_str(text)]


@PUBLISHED
@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_the_pretokens_are_those_of_the_published_expression(name: str, text: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    expression = PATTERNS[name].replace("{1,3}+", "{1,3}")  # that engine reads }+ as a repetition
    peer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(expression), "isolated")
    assert splitter(name)(text) == [pretoken for pretoken, _ in peer.pre_tokenize_str(text)]


@PUBLISHED
@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_the_pretokens_are_those_of_tiktoken(name: str, text: str) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    pretokens = [pretoken.encode() for pretoken in splitter(name)(text)]
    # Ids alone show no borders, so every pretoken is a token: tiktoken takes a pretoken that is one whole.
    ranks = {bytes([byte]): byte for byte in range(256)}
    for pretoken in pretokens:
        ranks.setdefault(pretoken, len(ranks))
    peer = tiktoken.Encoding("pretokens", pat_str=PATTERNS[name], mergeable_ranks=ranks, special_tokens={})
    assert peer.encode_ordinary(text) == [ranks[pretoken] for pretoken in pretokens]


CLASSES = {
    "\u00c0": r"[\p{Lu}\p{Lt}]",
    "\u00e0\u00df": r"\p{Ll}",
    "\u00aa": r"[\p{Lm}\p{Lo}]",
    "\u00a8": r"\p{M}",
    "\u00bc": r"\p{N}",
    "\x85": r"\s",
}


@pytest.mark.parametrize("letter", CLASSES)
def test_every_character_has_the_class_that_tokenizers_gives_it(letter: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    everything = "".join(map(chr, [*range(0x80, 0xD800), *range(0xE000, 0x110000)]))
    peer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(CLASSES[letter] + "+"), "removed")
    others = "".join(pretoken for pretoken, _ in peer.pre_tokenize_str(everything))
    ours = shadow(everything)
    assert "".join(character for character, kind in zip(everything, ours, strict=True) if kind not in letter) == others


def test_an_ascii_text_is_its_own_shadow() -> None:
    text = "".join(map(chr, range(128)))
    assert shadow(text) == text


def test_what_a_custom_pattern_leaves_out_is_a_pretoken() -> None:
    assert splitter(r"[a-z]+")("12ab, cd!") == ["12", "ab", ", ", "cd", "!"]
    with pytest.raises(TokenizerError, match="matches the empty text"):
        splitter(r"x*")
    assert splitter(r"\p{Lu}\p{Ll}*")("\u00c9t\u00e91") == ["\u00c9t\u00e9", "1"]


def test_a_pattern_is_known_by_its_name_and_by_its_expression() -> None:
    for name, expression in PATTERNS.items():
        assert name_of(name) == name_of(expression) == name
        assert expression_of(name) == expression
    assert name_of(r"\w+") is None
    assert expression_of(r"\w+") == r"\w+"


@pytest.mark.parametrize(("pattern", "says"), [("gpt3", "unknown pattern 'gpt3'"), ("(a", "not a regular expression")])
def test_what_is_no_pattern_is_refused(pattern: str, says: str) -> None:
    with pytest.raises(TokenizerError, match=says):
        expression_of(pattern)
    with pytest.raises(TokenizerError):
        splitter(pattern if "(" in pattern else "(")
