"""One library in a process of its own: `python -m lm_bench.tokenizer.worker JOB`, commands and answers as JSON lines.

A command is {"do": the name of a method of `Server`, ...its arguments}; the answer is what the method returns, or
{"error": ...}. Between commands the process waits and takes no time from the others.
"""

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from lm_bench.memory import peak_mib
from lm_bench.tokenizer.gpt2 import Models
from lm_bench.tokenizer.libraries import LIBRARIES
from lm_bench.tokenizer.texts import Text
from lm_core.config import Config

PROMPT = "Hello world"
WARMUP_VOCAB_SIZE = 1000
PROMPTS = 2000
"""In one block."""
PARTS = 8
"""Pieces that a slow library encodes at once where all ids are wanted: its objects are far larger than they."""


class WorkerJob(Config):
    """Job of the process."""

    library: str
    threads: int
    models: Models


class Server:
    """Answers the commands. Everything that is not the library's work is done before the clock starts."""

    def __init__(self, job: WorkerJob):
        self.library = LIBRARIES[job.library]
        self.threads = job.threads
        self.models = job.models
        self.texts: dict[str, Text] = {}
        self.tokenizer: Any = None
        self.ids: Any = None

    def text(self, path: str) -> Text:
        """A text in the form that the library takes."""
        text = self.texts.setdefault(path, Text(Path(path)))
        getattr(text, self.library.reads)
        return text

    def renew(self) -> None:
        """Replace the tokenizer by a new one, in which nothing is cached."""
        self.tokenizer = None
        self.tokenizer = self.library.open(self.models)

    def warm_up(self, path: str) -> dict[str, Any]:
        """Load and compile the library's code on another text, with a tokenizer that is then thrown away."""
        self.renew()
        for _ in range(2):
            encoded = self.library.encode(self.tokenizer, self.text(path), self.threads)
        self.library.encode_prompt(self.tokenizer, PROMPT)
        del self.texts[path], encoded
        self.renew()
        return {}

    def encode(self, path: str, fresh: bool) -> dict[str, Any]:
        """Seconds to encode a text, with a new tokenizer or with the last one."""
        if fresh:
            self.renew()
        text = self.text(path)
        gc.collect()
        started = time.perf_counter()
        encoded = self.library.encode(self.tokenizer, text, self.threads)
        seconds = time.perf_counter() - started
        del encoded
        return {"seconds": seconds}

    def save_ids(self, path: str, out: str) -> dict[str, Any]:
        """Encode a text and write its ids."""
        text = self.text(path)
        parts = text.parts(PARTS) if self.library.slow else [text]
        library, tokenizer = self.library, self.tokenizer
        ids = np.concatenate([library.ids(library.encode(tokenizer, part, self.threads)) for part in parts])
        np.save(out, ids)
        return {"tokens": len(ids)}

    def load_ids(self, path: str, takes: str) -> dict[str, Any]:
        """Hold the ids in a file for `decode`, as an array or a list."""
        array = np.load(path)
        self.ids = array.tolist() if takes == "list" else array
        return {}

    def decode(self, expected: str = "") -> dict[str, Any]:
        """Seconds to decode, and whether the text is that of the file `expected`."""
        gc.collect()
        started = time.perf_counter()
        text = self.library.decode(self.tokenizer, self.ids)
        seconds = time.perf_counter() - started
        if expected:
            raw = text.encode() if isinstance(text, str) else text
            return {"equal": raw == Path(expected).read_bytes()}
        return {"seconds": seconds}

    def prompt(self) -> dict[str, Any]:
        """Seconds for one short text, a block of calls after the same call has been made."""
        encode, tokenizer = self.library.encode_prompt, self.tokenizer
        started = time.perf_counter()
        for _ in range(PROMPTS):
            encode(tokenizer, PROMPT)
        return {"seconds": (time.perf_counter() - started) / PROMPTS}

    def train(self, path: str, vocab_size: int, out: str, warmup: str) -> dict[str, Any]:
        """Seconds to learn a vocabulary, peak memory in MiB; the merges go into the file `out`.

        Before the clock starts the library is imported; what compiles also learns from the file `warmup`, and says how
        many seconds it took to have its code loaded by that.
        """
        started = time.perf_counter()
        self.library.imported  # noqa: B018
        if self.library.compiles:
            self.library.train(Path(warmup), WARMUP_VOCAB_SIZE, self.threads)
        loading = time.perf_counter() - started
        imported = peak_mib()
        started = time.perf_counter()
        merges = self.library.train(Path(path), vocab_size, self.threads)
        seconds = time.perf_counter() - started
        peak = peak_mib()
        Path(out).write_text(json.dumps([[part.hex() for part in merge] for merge in merges]), "ascii")
        return {"seconds": seconds, "peak": peak, "imported": imported, "loading": loading}

    def train_model(self, path: str, vocab_size: int, prefix: str) -> dict[str, Any]:
        """Write sentencepiece's own model."""
        self.library.train_model(Path(path), vocab_size, self.threads, Path(prefix))  # type: ignore[attr-defined]
        return {}


def serve(server: Server) -> None:
    """Answer commands until there are no more."""
    # What a library prints must not come between the answers: stdout is for us, and its stdout is stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(server, command.pop("do"))(**command)
        except KeyboardInterrupt:
            return
        except BaseException as error:  # a panic of a Rust library is not an Exception
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(Server(WorkerJob.model_validate_json(sys.argv[1])))
