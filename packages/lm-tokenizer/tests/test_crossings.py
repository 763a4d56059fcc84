"""Long pretokens are cut where no token reaches across, so their ids are those of the whole."""

import random

import pytest

from lm_tokenizer import Vocabulary, reference
from lm_tokenizer.crossings import crossings
from lm_tokenizer.engine import Engine
from lm_tokenizer.words import encode_pretoken

# Characters of one to four bytes; many of three, which share their first and last bytes.
ALPHABETS = {
    "Chinese": [chr(0x4E00 + 64 * i + j) for i in range(6) for j in range(3)],
    "bytes alike": [chr(0x8000 + 0x1000 * i + j) for i in range(3) for j in range(2)],
    "mixed": [*"ab\u00e9\u0436", *"\u65e5\u672c\u3042\u0e01", "\U0001f642", "\U00020000"],
}


@pytest.mark.parametrize("name", ALPHABETS)
@pytest.mark.parametrize("seed", range(3))
def test_a_cut_pretoken_has_the_ids_of_the_whole(name: str, seed: int) -> None:
    rng = random.Random(seed)
    letters = ALPHABETS[name]
    words = ["".join(rng.choices(letters, k=rng.randint(1, 3))) for _ in range(60)]
    learned = reference.train([" ".join(rng.choices(words, k=300)), "".join(rng.choices(letters, k=300))], 380, r"\S+")
    merges = list(learned.merges)
    # Tokens that begin and end inside characters, as a trainer makes them of text that is cut elsewhere.
    made = {learned.tokens[left] + learned.tokens[right] for left, right in merges}
    tokens = list(learned.tokens)
    for _ in range(40):
        left, right = rng.choices(range(256, len(tokens)), k=2)
        token = tokens[left] + tokens[right]
        if len(token) < 8 and token not in made:
            made.add(token)
            tokens.append(token)
            merges.append((left, right))
    vocabulary = Vocabulary(tokens, merges, {}, r"\S+")
    machine = Engine(vocabulary)
    for _ in range(60):
        pretoken = "".join(rng.choice([rng.choice(words), rng.choice(letters)]) for _ in range(rng.randint(6, 40)))
        ids, _ = machine.encode([pretoken.encode()], 1)
        assert ids.tolist() == encode_pretoken(pretoken.encode(), vocabulary)


def test_tokens_of_whole_characters_and_of_a_part_of_the_next_are_not_cut() -> None:
    rng = random.Random(0)
    characters = [chr(0x4E00 + 64 * i + j) for i in range(8) for j in range(8)]
    tokens = [bytes([byte]) for byte in range(256)]
    merges: list[tuple[int, int]] = []

    def make(left: bytes, right: bytes) -> None:
        if left + right not in tokens:
            merges.append((tokens.index(left), tokens.index(right)))
            tokens.append(left + right)

    encoded = [character.encode() for character in characters]
    for character in encoded:
        make(character[:1], character[1:2])
    for character in encoded[::2]:
        make(character[:2], character[2:])
    for _ in range(40):
        make(rng.choice(encoded[::2]), rng.choice(encoded[1::2])[:2])  # before the latter's third byte can be merged
    for character in encoded[1::2]:
        make(character[:2], character[2:])
    for _ in range(60):
        make(*rng.choices(encoded, k=2))
    vocabulary = Vocabulary(tokens, merges, {}, r"\S+")
    machine = Engine(vocabulary)
    crossed = 0
    for _ in range(200):
        pretoken = "".join(rng.choices(characters, k=30)).encode()
        ids, _ = machine.encode([pretoken], 1)
        assert ids.tolist() == encode_pretoken(pretoken, vocabulary)
        crossed += sum(len(tokens[i]) > 3 for i in ids)
    assert crossed > 50


def test_a_vocabulary_without_merges_has_no_crossings() -> None:
    joins, contexts = crossings([])
    assert not joins.any()
    assert not contexts.any()
