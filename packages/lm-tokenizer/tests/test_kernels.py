"""The compiled twin gives what the readable one gives, however a text is cut and whoever encodes it."""

import os
import pickle
import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lm_tokenizer import Tokenizer, TokenizerError, Vocabulary, engine, reference
from lm_tokenizer import tokenizer as module
from lm_tokenizer.boundaries import safe_ends
from lm_tokenizer.engine import Engine, NotUTF8Error, UnknownIdError
from lm_tokenizer.pretokenize import PATTERNS, splitter
from lm_tokenizer.words import encode_pretoken

TEXT = """The quick brown foxes don't jump; they're over the lazy dogs' backs -- 1234567 times, or 12,345.67!
    def fibonacci(n):\n\tif n < 2: return n  # naïve\n\treturn fibonacci(n - 1) + fibonacci(n - 2)\n\n
Ça coûte cinquante €, señor. Привет, мир! 你好，世界。今日は良い天気ですね。 안녕하세요 🙂🙂🙂
٣٤٥ ½ x̂ A_B'S WE'LL\u00a0end\u3000"""
CHARACTERS = "  \n\t\r'''sdmtlreveSLſ ab AB12½٣.-_/\u00a0\u2003\u3000\u0085\x1c\x00éñß日本語한글🙂ªʰ\u0301\u0903ǅ"
texts = st.one_of(
    st.text(alphabet=st.sampled_from(CHARACTERS), max_size=200),
    st.text(max_size=80),
    st.text(alphabet=st.sampled_from("theand' "), max_size=200),
)


@pytest.fixture(scope="module", params=["gpt2", "cl100k", "o200k", "llama3", r"\S+"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer(reference.train([TEXT], 420, request.param))


@pytest.fixture(scope="module")
def gpt2_like() -> Tokenizer:
    return Tokenizer(reference.train([TEXT], 420))


def encode(machine: Engine, *parts: str, threads: int = 1) -> list[list[int]]:
    ids, counts = machine.encode([part.encode() for part in parts], threads)
    return [part.tolist() for part in np.split(ids, np.cumsum(counts)[:-1])]


@pytest.fixture
def small_pretokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a few bytes, and a cache that must grow and be emptied all the time."""
    for name, value in {"CHUNK": 48, "FIRST_SLOTS": 8, "MOST_SLOTS": 32, "FIRST_ARENA": 64, "MOST_ARENA": 256}.items():
        monkeypatch.setattr(engine, name, value)


def test_the_twins_agree(tokenizer: Tokenizer) -> None:
    machine = Engine(tokenizer.vocabulary)

    @settings(max_examples=150, deadline=None)
    @given(texts)
    @example("")
    @example("x" * 63 + "'s")
    @example("x" * 62 + "'ve")
    @example("x" * 61 + " " + "é" * 40)
    @example("a" * 62 + "\u3000b")
    @example(" " * 4096 + "a" * 5000 + "\n")
    def check(text: str) -> None:
        assert encode(machine, text) == [reference.encode(text, tokenizer.vocabulary)]

    check()


def test_how_a_text_is_cut_and_cached_makes_no_difference(tokenizer: Tokenizer, small_pretokens: None) -> None:
    machine = Engine(tokenizer.vocabulary)
    rng = random.Random(0)
    for _ in range(60):
        parts = ["".join(rng.choices(TEXT + CHARACTERS, k=rng.choice([0, 10, 300]))) for _ in range(rng.choice([1, 5]))]
        expected = [tokenizer._words.encode(part) for part in parts]
        for threads in (1, 2, 4):
            assert encode(machine, *parts, threads=threads) == expected


@pytest.mark.parametrize("name", PATTERNS)
def test_a_text_is_cut_only_where_its_pretokens_end(name: str) -> None:
    split = splitter(name)

    @settings(max_examples=200, deadline=None)
    @given(texts, st.integers(1, 40))
    @example("1\x85  ", 2)  # white space of two bytes, of which the search begins at the second
    def check(text: str, size: int) -> None:
        data = text.encode()
        ends = list(safe_ends(data, size, name))
        parts = [data[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]
        assert [pretoken for part in parts for pretoken in split(part)] == split(text)

    check()


def test_a_custom_pattern_is_not_cut() -> None:
    assert list(safe_ends(b"one two three four", 4, r"\S+")) == [18]


@pytest.mark.parametrize("letters", [b"a", b"ab", b"the ", bytes(range(256))])
def test_a_long_pretoken_is_merged_as_the_definition_says(letters: bytes, gpt2_like: Tokenizer) -> None:
    from lm_tokenizer._kernels.merge import merge_long, merge_run

    machine, rng = Engine(gpt2_like.vocabulary), random.Random(1)
    for size in [2, 3, 7, 64, 65, 255, 700]:
        pretoken = bytes(rng.choices(letters, k=size))
        expected = encode_pretoken(pretoken, gpt2_like.vocabulary)
        if size < 300:
            assert expected == reference.encode_pretoken(pretoken, gpt2_like.vocabulary)
        data, ids = np.frombuffer(pretoken, np.uint8), np.zeros(size, np.uint32)
        n = merge_long(data.ctypes.data, size, machine._model, ids.ctypes.data)
        assert ids[:n].tolist() == expected
        if len(letters) == 1:
            n = merge_run(letters[0], size, machine._model, ids.ctypes.data)
            assert ids[:n].tolist() == expected


def test_merges_in_any_order_are_applied_by_rank() -> None:
    """Files may list a merge before those that make its parts, or make one token by two merges."""
    base = reference.train(["abab abc abcd bcd aabb"], 268)
    rng = random.Random(2)
    for _ in range(5):
        merges = list(base.merges)
        rng.shuffle(merges)
        vocabulary = Vocabulary(base.tokens, merges)
        machine = Engine(vocabulary)
        for size in (5, 60, 90):
            text = "".join(rng.choices("abcd", k=size))
            assert encode(machine, text) == [reference.encode(text, vocabulary)]


@given(st.binary(max_size=90))
@settings(max_examples=200, deadline=None)
def test_what_is_not_utf8_is_found(gpt2_machine: Engine, data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError:
        with pytest.raises(NotUTF8Error):
            gpt2_machine.encode([b"good", data], 1)
    else:
        gpt2_machine.encode([b"good", data], 1)


@pytest.fixture(scope="module")
def gpt2_machine(gpt2_like: Tokenizer) -> Engine:
    return Engine(gpt2_like.vocabulary)


def test_every_character_has_the_class_that_the_readable_twin_sees(gpt2_like: Tokenizer) -> None:
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    text = "".join(f"a{character}1{character} {character}\n" for character in characters[::7])
    assert encode(Engine(gpt2_like.vocabulary), text) == [gpt2_like._words.encode(text)]


def test_threads_may_share_a_tokenizer(gpt2_like: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "FIRST_SLOTS", 64)
    shared, wrong = Tokenizer(gpt2_like.vocabulary), []
    shared._encoded = module.SMALL
    inputs = ["".join(random.Random(seed).choices(TEXT, k=3000)) for seed in range(8)]
    expected = [gpt2_like._words.encode(text) for text in inputs]

    def work(seed: int) -> None:
        chosen = random.Random(seed).choices(range(len(inputs)), k=40)
        wrong.extend(i for i in chosen if shared.encode(inputs[i]) != expected[i])

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 warns of forks beside threads
def test_a_fork_and_a_pickle_encode_alike(gpt2_like: Tokenizer) -> None:
    tokenizer = Tokenizer(gpt2_like.vocabulary)
    tokenizer._encoded = module.SMALL
    expected = tokenizer.encode(TEXT * 20)
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode(TEXT * 20) == expected
    assert copy.fingerprint == tokenizer.fingerprint
    child = os.fork()
    if child == 0:
        os._exit(0 if tokenizer.encode(TEXT * 20) == expected else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_prompt_loads_neither_numba_nor_numpy(gpt2_like: Tokenizer, tmp_path: Path) -> None:
    gpt2_like.save(tmp_path)
    code = (
        "import sys; from lm_tokenizer import Tokenizer; t = Tokenizer.load(sys.argv[1]); "
        "assert t.decode(t.encode('Hello wörld ' * 80)) == 'Hello wörld ' * 80; "
        "print(sorted({'numba', 'numpy', 'regex', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_decoding_is_the_same_by_both_paths(gpt2_like: Tokenizer) -> None:
    ids = gpt2_like._words.encode(TEXT * 30)
    machine = Engine(gpt2_like.vocabulary)
    for kind in (np.uint16, np.uint32, np.int64, np.int16, np.uint64, ">u2", ">i8"):
        assert machine.decode(np.array(ids, kind)).tobytes() == (TEXT * 30).encode()
        assert machine.decode(np.repeat(np.array(ids, kind), 2)[::2]).tobytes() == (TEXT * 30).encode()
    large = Tokenizer(gpt2_like.vocabulary)
    assert large._engine is not None
    assert large.decode(ids) == gpt2_like.decode(ids) == TEXT * 30
    holes = Vocabulary([*gpt2_like.vocabulary.tokens, b"", b"<x>"], gpt2_like.vocabulary.merges, {"<x>": 421})
    with pytest.raises(UnknownIdError):
        Engine(holes).decode(np.array([65, 420]))
    for wrong in (gpt2_like.vocab_size, -1, 1 << 40):
        for one in (large, gpt2_like):
            with pytest.raises(TokenizerError, match=rf"the id {wrong} at position 100 "):
                one.decode([*ids[:100], wrong, *ids])
