"""The peers that most people use: tiktoken, Hugging Face's tokenizers, sentencepiece."""

import base64
import importlib
import json
import tempfile
from pathlib import Path
from typing import Any

from lm_bench.tokenizer.gpt2 import Models, raw
from lm_bench.tokenizer.libraries.library import Library, Merges
from lm_bench.tokenizer.texts import Text, stream


class Tiktoken(Library):
    """Pieces to lists. It does not train."""

    name = "tiktoken"
    module = "tiktoken"
    trains = False
    slow = True

    def open(self, models: Models) -> Any:
        """From its own rank file, without its cache of downloads."""
        lines = (line.split() for line in Path(models.ranks).read_bytes().splitlines())
        ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
        pattern = importlib.import_module("tiktoken_ext.openai_public").r50k_pat_str  # GPT-2's, written for its engine
        return self.imported.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})

    def encode(self, tokenizer: Any, text: Text, threads: int) -> Any:
        """Lists; `encode_to_numpy` takes longer."""
        if threads == 1:
            return [tokenizer.encode_ordinary(piece) for piece in text.pieces]
        return tokenizer.encode_ordinary_batch(text.pieces, num_threads=threads)

    def decode(self, tokenizer: Any, ids: Any) -> str | bytes:
        """Bytes."""
        return tokenizer.decode_bytes(ids)

    def encode_prompt(self, tokenizer: Any, prompt: str) -> Any:
        """A list."""
        return tokenizer.encode_ordinary(prompt)

    def start_code(self, models: Models) -> str:
        """From its rank file."""
        return (
            "import base64, tiktoken\nfrom tiktoken_ext.openai_public import r50k_pat_str\n"
            f"with open({models.ranks!r}, 'rb') as file:\n    lines = file.read().splitlines()\n"
            "ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}\n"
            "encoding = tiktoken.Encoding('gpt2', pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})\n"
            "encoding.encode_ordinary(prompt)"
        )


class HuggingFace(Library):
    """Pieces to lists. Its threads follow RAYON_NUM_THREADS."""

    name = "tokenizers"
    module = "tokenizers"
    slow = True

    def open(self, models: Models) -> Any:
        """From `tokenizer.json`."""
        return self.imported.Tokenizer.from_file(models.tokenizer_json)

    def encode(self, tokenizer: Any, text: Text, threads: int) -> Any:
        """Lists; `encode_batch_fast` leaves out the offsets that `encode` makes."""
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(text.pieces)]

    def decode(self, tokenizer: Any, ids: Any) -> str | bytes:
        """Text."""
        return tokenizer.decode(ids)

    def encode_prompt(self, tokenizer: Any, prompt: str) -> Any:
        """A list."""
        return tokenizer.encode(prompt).ids

    def start_code(self, models: Models) -> str:
        """From `tokenizer.json`."""
        return f"from tokenizers import Tokenizer\nTokenizer.from_file({models.tokenizer_json!r}).encode(prompt).ids"

    def train(self, path: Path, vocab_size: int, threads: int) -> Merges:
        """From pieces of the file: from the file itself it would take each line for a text of its own."""
        hf = self.imported
        tokenizer = hf.Tokenizer(hf.models.BPE())
        tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = hf.pre_tokenizers.ByteLevel.alphabet()
        trainer = hf.trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(stream(path), trainer)
        merges = json.loads(tokenizer.to_str())["model"]["merges"]
        return [(raw(left), raw(right)) for left, right in merges]


class SentencePiece(Library):
    """Lines to lists, by a model of its own: a BPE with byte fallback and its own split."""

    name = "sentencepiece"
    module = "sentencepiece"
    gpt2 = False
    slow = True
    reads = "lines"
    note = "sentencepiece: its own split, its own model (BPE with byte fallback, learned from the same text)"

    def open(self, models: Models) -> Any:
        """From its own model."""
        return self.imported.SentencePieceProcessor(model_file=models.sentencepiece)

    def encode(self, tokenizer: Any, text: Text, threads: int) -> Any:
        """Lists; from lines it is twice as fast as from longer texts, and its array is no faster."""
        return tokenizer.encode(text.lines, out_type=int, num_threads=threads)

    def decode(self, tokenizer: Any, ids: Any) -> str | bytes:
        """Text."""
        return tokenizer.decode(ids)

    def encode_prompt(self, tokenizer: Any, prompt: str) -> Any:
        """A list."""
        return tokenizer.encode(prompt)

    def start_code(self, models: Models) -> str:
        """From its own model."""
        return (
            "from sentencepiece import SentencePieceProcessor\n"
            f"SentencePieceProcessor(model_file={models.sentencepiece!r}).encode(prompt)"
        )

    def train(self, path: Path, vocab_size: int, threads: int) -> Merges:
        """From the file's lines; the model is thrown away."""
        with tempfile.TemporaryDirectory() as folder:
            self.train_model(path, vocab_size, threads, Path(folder) / "model")
        return []

    def train_model(self, path: Path, vocab_size: int, threads: int, prefix: Path) -> None:
        """Write `prefix`.model."""
        self.imported.SentencePieceTrainer.train(
            input=str(path),
            model_prefix=str(prefix),
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            num_threads=threads,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,  # decoding gives the text back
            max_sentence_length=10_000_000,  # in bytes; it leaves longer lines out
            hard_vocab_limit=False,  # a small text may not have that many
            minloglevel=2,
        )
