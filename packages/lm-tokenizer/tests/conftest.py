"""What the suites share: one text with something of everything, and small vocabularies learned from it."""

import os
from pathlib import Path

import pytest

from lm_tokenizer import reference
from lm_tokenizer.vocab import Vocabulary, with_special_tokens

TEXT = """\
The tokenizer reads the text, and the text is read by the tokenizer; it's what they'd said, they'll SAY IT'S so.
Don't the dogs' owners' tokens count? We're sure you've 12345 tokens in 2024, and 3.14159 more -- or ½ of ٣٤٥.
Le garçon élève sa voix à l'été; Übergrößen für Äpfel, ¿mañana? naïve coöperation, Dvořák's čeština, Ελληνικά, Русский.
日本語のテキストと中文文本、한국어 텍스트。 今日は、今日は。 你好，你好。 สวัสดี नमस्ते שלום مرحبا
😀😀 👩‍👩‍👧‍👦 👍🏽 e\u0301 \u00a0\u3000 \u2028 \x85 \ufeff \ufffd
def tokens(text: str) -> list[int]:
    if text.startswith("the"):  # the\ttext
\treturn [x ** 2 for x in range(10)]    \n\n\r\n    return tokens(text[1:])   \n   """


@pytest.fixture(scope="session")
def text() -> str:
    return TEXT


@pytest.fixture(scope="session", params=["gpt2", "cl100k", "o200k"])
def vocabulary(request: pytest.FixtureRequest) -> Vocabulary:
    """A vocabulary of 400 tokens, the last two of them special, for each published pattern."""
    learned = reference.train([TEXT], 398, request.param)
    return with_special_tokens(learned.tokens, learned.merges, ["<|endoftext|>", "<|a é|>"], request.param)


@pytest.fixture(scope="session")
def plain() -> Vocabulary:
    """GPT-2's pattern, 400 tokens, none of them special."""
    return reference.train([TEXT], 400)


@pytest.fixture(scope="session")
def gpt2_folder() -> Path:
    """GPT-2's own vocab.json and merges.txt, where the environment says where they are."""
    folder = os.environ.get("LM_TOKENIZER_GPT2")
    if not folder:
        pytest.skip("LM_TOKENIZER_GPT2 does not name a folder with GPT-2's files")
    return Path(folder)
