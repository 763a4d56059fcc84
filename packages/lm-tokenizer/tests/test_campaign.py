"""The real vocabulary and large amounts of text, against tiktoken and Hugging Face.

    LM_TOKENIZER_GPT2=...   a folder with GPT-2's own vocab.json and merges.txt
    LM_TOKENIZER_TEXTS=...  a folder with texts, tinyshakespeare.txt, mixed_10mb.txt and wikitext2 among them
    pytest -m slow packages/lm-tokenizer -rs --durations=0

Each campaign has a short form, which runs with every other test and needs neither folder: the peers then read the files
of a small vocabulary. The short forms of training and of the round trips are in test_train.py and test_formats.py.
"""

import ctypes
import itertools
import json
import mmap
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import lm_tokenizer
from lm_tokenizer import Tokenizer, formats
from lm_tokenizer.corpus import Unit
from lm_tokenizer.engine import Engine
from lm_tokenizer.tally import Tally

SHORT_AND_LONG = pytest.mark.parametrize("length", ["short", pytest.param("long", marks=pytest.mark.slow)])
BATCH = 50_000
"""Strings that are generated and compared at a time."""
Text = str | bytes

# What generated strings are made of

TABLE = """\
the The THE and Token tokens don won can't I'm it's They'll we've you'd 'twas o'clock O'Neil ing tion Größe élève \
naïve Привет мир Ελληνικά 你好 世界 今日は 안녕하세요 नमस्ते สวัสดี שלום مرحبا ǅ ʰ ª ß ſ İ ı ﬁ Ⅷ ᾳ
's 't 're 've 'm 'll 'd 'S 'T 'RE 'VE 'M 'LL 'D 'lL 'Ve 'rE 'l 'r 'v 'x ' '' ’s 'ſ
0 1 12 123 2024 3.14 1,000 0x1F 1e-9 ½ ² ٣٤٥ १२ Ⅷ ① 𝟙 〇
def f(x): return if(a[i]!=b->c){ }; // #!/bin/sh == !== <=> ... -- __init__ &amp; <div class='x'> \\n %s $HOME a_b \
camelCase https://a.b/c?d=e#f @ ~ ` |
😀 🙂🙂 👍\U0001f3fd 👩\u200d👩\u200d👧\u200d👦 🏳\ufe0f\u200d🌈 🇩🇪 🇯🇵🇰🇷 1\ufe0f\u20e3 ❤\ufe0f ☺\ufe0e \
👨\U0001f3ff\u200d🚀 🏴\U000e0067\U000e0062\U000e007f
e\u0301 n\u0303 x\u0302\u0323 \u0301 \u0903 \u093f \u0e31 \u05b0 \u20e3 \ufe0f \u200d \u200c \u0345 \U000e0100 \
Z\u0351\u036b \u1100\u1161\u11a8 \xad \u202e
ff c3 eda080 f4908080 80 c0af e282 f09f98 41 0a 27"""
WORDS, CONTRACTIONS, NUMBERS, CODE, EMOJI, MARKS, DAMAGE = map(str.split, TABLE.split("\n"))
SPACES = [*" \t\n\v\f\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000", *map(chr, range(0x2000, 0x200C))]
SPACES += [*"\u180e\ufeff\u2060", "  ", "   ", " " * 8, "\n\n", "\r\n", " \n", "\n ", "\t\t"]
RARE = [*"\0\x7f\x80\ufffd\ufffe\uffff\ue000\U0010ffff", "\0\0", "猫" * 22, "é" * 40, "\n" * 7, " " * 65, "ab" * 300]
RARE += ["a" * 15, "b" * 16, "c" * 17, "-" * 64, "aA" * 33, "=" * 300]
KINDS = [WORDS, WORDS, CONTRACTIONS, NUMBERS, SPACES, SPACES, [" "], CODE, EMOJI, MARKS]


def character(rng: random.Random) -> str:
    """Of any plane, those of the first more often; never a surrogate."""
    limit = rng.choice((0x80, 0x100, 0x800, 0x3000, 0x10000, 0x20000, 0x110000))
    code = rng.randrange(limit)
    return chr(code) if not 0xD800 <= code < 0xE000 else " "


def string(rng: random.Random) -> str:
    parts = [rng.choice(rng.choice(KINDS)) for _ in range(rng.randrange(12))]
    for _ in range(rng.randrange(6)):
        parts.insert(rng.randrange(len(parts) + 1), character(rng))
    if rng.random() < 0.02:
        parts.insert(rng.randrange(len(parts) + 1), rng.choice(RARE))
    return "".join(parts)


def damaged(text: str, rng: random.Random) -> bytes:
    """The UTF-8 of a text with a byte or two changed, left out or put in, or cut at its end."""
    data = bytearray(text.encode() or b"?")
    for _ in range(rng.randrange(1, 3)):
        at = rng.randrange(len(data))
        data[at : at + rng.randrange(3)] = bytes.fromhex(rng.choice([*DAMAGE, "", f"{rng.randrange(256):02x}"]))
        if not data:
            data += b"\xe3\x81"
    return bytes(data[: rng.randrange(len(data)) + 1])


def batches(count: int, seed: int) -> Iterator[tuple[list[Text], list[str]]]:
    """Texts to encode, one in eight of them bytes that need not be UTF-8, and what a peer is to encode instead."""
    rng = random.Random(seed)
    for start in range(0, count, BATCH):
        ours: list[Text] = []
        theirs: list[str] = []
        for i in range(start, min(start + BATCH, count)):
            text = string(rng)
            data = damaged(text, rng) if i % 8 == 0 else text
            ours.append(data)
            theirs.append(data.decode(errors="replace") if isinstance(data, bytes) else data)
        yield ours, theirs


# The peers


class Trio(NamedTuple):
    """Ours and two peers, each of which has read vocab.json and merges.txt by itself."""

    ours: Tokenizer
    tiktoken: Callable[[Sequence[str]], list[list[int]]]
    hugging_face: Callable[[Sequence[str]], list[list[int]]]


def trio_of(folder: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Trio:
    tiktoken, tokenizers = pytest.importorskip("tiktoken"), pytest.importorskip("tokenizers")
    vocab, merges = str(folder / "vocab.json"), str(folder / "merges.txt")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")  # which keeps local files too, by their names
    headed = scratch / "headed.txt"
    headed.write_text("\n".join(["#version: 0.2", *merge_lines(folder / "merges.txt"), ""]))  # it skips the first line
    encoding = tiktoken.Encoding(
        "campaign",
        pat_str=import_module("tiktoken_ext.openai_public").r50k_pat_str,
        mergeable_ranks=tiktoken.load.data_gym_to_mergeable_bpe_ranks(str(headed), vocab),
        special_tokens={},
    )
    peer = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(vocab, merges))
    peer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return Trio(
        Tokenizer.from_files(vocab, merges),
        lambda texts: encoding.encode_ordinary_batch(texts, num_threads=os.cpu_count() or 1),
        lambda texts: [found.ids for found in peer.encode_batch_fast(texts, add_special_tokens=False)],
    )


def merge_lines(path: Path) -> list[str]:
    """The lines of merges.txt, which may begin with its version."""
    return [line for line in path.read_text().split("\n") if line and not line.startswith("#version")]


def folder_of(variable: str) -> Path:
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} does not name a folder")
    return Path(folder)


@pytest.fixture
def trio(length: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trio:
    if length == "long":
        return trio_of(folder_of("LM_TOKENIZER_GPT2"), tmp_path, monkeypatch)
    Tokenizer.train([text, *WORDS, *CODE], 700, progress=False).save(tmp_path)
    return trio_of(tmp_path, tmp_path, monkeypatch)


def check(ours: Sequence[Any], theirs: Sequence[Any], texts: Sequence[Text], who: str) -> None:
    """Fail where two answers differ; pytest would take hours to show how two long lists do."""
    for mine, other, text in zip(ours, theirs, texts, strict=True):
        if mine != other:
            at = next(
                (i for i, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), min(len(mine), len(other))
            )
            pytest.fail(f"{text[:300]!r}: from {at} on {mine[at : at + 8]!r} here, {other[at : at + 8]!r} in {who}")


def compiled(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer as it is when it has encoded much."""
    tokenizer = Tokenizer(tokenizer.vocabulary)
    tokenizer._is_small = lambda size: False  # type: ignore[method-assign]
    return tokenizer


# Encoding


@SHORT_AND_LONG
def test_generated_strings_have_the_ids_of_both_peers(length: str, trio: Trio) -> None:
    fast = compiled(trio.ours)
    compared = damages = by_hand = 0
    for ours, theirs in batches(1_000_000 if length == "long" else 4000, seed=len(length)):
        ids = [array.tolist() for array in fast.encode_batch(ours, errors="replace")]
        check(ids, trio.tiktoken(theirs), ours, "tiktoken")
        check(ids, trio.hugging_face(theirs), ours, "Hugging Face")
        sample = slice(compared % 7, None, 20 if length == "long" else 4)
        readable = Tokenizer(trio.ours.vocabulary)  # with an empty memory and its whole budget
        check(
            [readable.encode(text, errors="replace") for text in ours[sample]], ids[sample], ours[sample], "the kernels"
        )
        check([fast.decode(one) for one in ids[sample]], theirs[sample], ours[sample], "what was encoded")
        compared += len(ours)
        damages += sum(
            isinstance(one, bytes) and one != other.encode() for one, other in zip(ours, theirs, strict=True)
        )
        by_hand += len(ours[sample])
    print(f"\n{compared:,} strings, {damages:,} of them not UTF-8; {by_hand:,} by the readable path too")
    assert damages > compared // 20


@SHORT_AND_LONG
def test_every_text_has_the_ids_of_both_peers_and_comes_back(length: str, trio: Trio, tmp_path: Path) -> None:
    folder = folder_of("LM_TOKENIZER_TEXTS") if length == "long" else Path(lm_tokenizer.__file__).parent
    fast, files, n_bytes = compiled(trio.ours), 0, 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        data = path.read_bytes()
        try:
            text = data.decode()
        except UnicodeDecodeError:
            continue
        ids = fast.encode_array(data, disallowed_special=())
        check([ids.tolist()], trio.tiktoken([text]), [path.name], "tiktoken")
        check([ids.tolist()], trio.hugging_face([text]), [path.name], "Hugging Face")
        assert np.array_equal(fast.encode_array(text, threads=4, disallowed_special=()), ids)
        check([trio.ours.encode(text, disallowed_special=())], [ids.tolist()], [path.name], "the kernels")
        (tmp_path / "text").write_bytes(data)
        assert fast.encode_file(tmp_path / "text", tmp_path / "ids.npy", disallowed_special=()) == len(ids)
        assert np.array_equal(np.load(tmp_path / "ids.npy"), ids)
        check([fast.decode_bytes(ids)], [data], [path.name], "the file")
        check([fast.decode(ids.tolist())], [text], [path.name], "the file")
        files, n_bytes = files + 1, n_bytes + len(data)
    print(f"\n{files} files of {n_bytes:,} bytes")
    assert files


# Training


@pytest.mark.slow
@pytest.mark.parametrize("size", [1000, 8000, 32_000])
@pytest.mark.parametrize("name", ["tinyshakespeare.txt", "mixed_10mb.txt", "wikitext2/wiki.train.txt"])
def test_training_gives_hugging_faces_merges_and_vocabulary(name: str, size: int) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    path = folder_of("LM_TOKENIZER_TEXTS") / name
    text = path.read_bytes().decode()
    peer = tokenizers.Tokenizer(tokenizers.models.BPE())
    peer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, show_progress=False, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()
    )
    peer.train_from_iterator([text], trainer)
    model = json.loads(peer.to_str())["model"]
    sources: Sequence[Path | list[str]] = (path, [text])
    for source, threads in itertools.product(sources, (1, 2, 4)):
        vocabulary = Tokenizer.train(source, size, threads=threads, progress=False).vocabulary
        merges = formats.printable.named_merges(vocabulary)
        check([merges], [[tuple(pair) for pair in model["merges"]]], [f"{name}, {threads} threads"], "Hugging Face")
        assert formats.printable.named(vocabulary).items() == model["vocab"].items()


# Round trips


@pytest.mark.slow
def test_every_format_comes_back_at_gpt2s_size(tmp_path: Path) -> None:
    folder = folder_of("LM_TOKENIZER_GPT2")
    made = Tokenizer.from_files(folder / "vocab.json", folder / "merges.txt")
    made.save(tmp_path / "saved")
    formats.write_tiktoken(made.vocabulary, tmp_path / "r50k_base.tiktoken")
    assert json.loads((tmp_path / "saved/vocab.json").read_text()) == json.loads((folder / "vocab.json").read_text())
    assert merge_lines(tmp_path / "saved/merges.txt") == merge_lines(folder / "merges.txt")
    back = [
        Tokenizer.load(tmp_path / "saved"),
        Tokenizer.load(tmp_path / "saved/tokenizer.json"),
        Tokenizer.load(tmp_path / "r50k_base.tiktoken"),
        Tokenizer.from_files(tmp_path / "saved/vocab.json", tmp_path / "saved/merges.txt"),
    ]
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    peer = tokenizers.Tokenizer.from_file(str(tmp_path / "saved/tokenizer.json"))
    peer.save(str(tmp_path / "peer.json"))
    model = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "saved/tokenizer.json"))
    model.save_pretrained(tmp_path / "pretrained")
    back += [Tokenizer.load(tmp_path / "peer.json"), Tokenizer.load(tmp_path / "pretrained")]
    assert {one.fingerprint for one in back} == {made.fingerprint}
    assert all(one.special_tokens == {"<|endoftext|>": 50256} for one in back)
    tiktoken = pytest.importorskip("tiktoken")
    encoding = tiktoken.Encoding(
        "back",
        pat_str=import_module("tiktoken_ext.openai_public").r50k_pat_str,
        mergeable_ranks=tiktoken.load.load_tiktoken_bpe(str(tmp_path / "r50k_base.tiktoken")),
        special_tokens={"<|endoftext|>": 50256},
    )
    [(_, texts)] = batches(20_000, seed=7)
    texts = [*texts, *(f"{a}<|endoftext|>{b}" for a, b in itertools.pairwise(texts[:2000]))]
    ids = [array.tolist() for array in compiled(made).encode_batch(texts, allowed_special="all")]
    check(ids, [found.ids for found in peer.encode_batch_fast(texts)], texts, "tokenizers")
    check(ids, model(texts)["input_ids"], texts, "transformers")
    check(ids, encoding.encode_batch(texts, allowed_special="all"), texts, "tiktoken")
    check(encoding.decode_batch(ids), texts, texts, "what was encoded")
    check([made.decode(one) for one in ids], texts, texts, "what was encoded")


# Memory


class Fenced:
    """Memory that ends where a page begins that may not be touched."""

    def __init__(self, size: int) -> None:
        page = mmap.PAGESIZE
        self._end = -(-size // page) * page
        self._map = mmap.mmap(-1, self._end + page)
        anchor = ctypes.c_char.from_buffer(self._map)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        assert libc.mprotect(ctypes.addressof(anchor) + self._end, page, 0) == 0

    def put(self, data: bytes) -> memoryview:
        """Place bytes so that the last of them is the last one that may be read."""
        begin = self._end - len(data)
        self._map[begin : self._end] = data
        return memoryview(self._map)[begin : self._end]


@pytest.mark.skipif(os.name != "posix", reason="needs mprotect")
@SHORT_AND_LONG
def test_nothing_is_read_behind_a_text(length: str, text: str) -> None:
    """One byte too many is a crash. Sizes are around those at which the kernels take another path."""
    vocabulary = Tokenizer.train([text], 420, progress=False).vocabulary
    machine, tally, rng = Engine(vocabulary), Tally("gpt2", 1), random.Random(0)
    words = Tokenizer(vocabulary)._words
    words.longest = 1 << 20
    near = [0, 15, 16, 64, 512, 4096, 8192]
    fence = Fenced(max(near) + 64)
    sizes = [size + shift for size in near for shift in range(-17, 18) if size + shift > 0]
    units = [" ", "a", "猫", "\u3000", "🙂", "1", "'ll", "ab ", "é'", "-", "\u2003x"]
    for size in sizes * (20 if length == "long" else 1):
        body = rng.choice([text * 40, rng.choice(units) * size, "".join(rng.choices(units, k=size))])
        data = ("x" * rng.randrange(4) + body).encode()[:size].decode(errors="ignore").encode()
        ids, _ = machine.encode([fence.put(data)], 1)
        assert ids.tolist() == words.encode(data.decode())
        unit = Unit(fence.put(data), np.array([0]), np.array([len(data)]), "", 0)  # type: ignore[arg-type]
        tally.count(iter([unit]))


def test_a_step_over_the_fence_is_a_crash() -> None:
    code = "import ctypes, test_campaign; fenced = test_campaign.Fenced(10).put(b'x'); " \
           "ctypes.string_at(ctypes.addressof(ctypes.c_char.from_buffer(fenced)), int(input()))"  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    for n_bytes, survives in (("1", True), ("2", False)):
        done = subprocess.run([sys.executable, "-c", code], input=n_bytes, text=True, env=environment, check=False)
        assert (done.returncode == 0) is survives
