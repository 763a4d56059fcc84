"""A session whose model goes on with the alphabet, an id every so many seconds: what test_terminal.py runs."""

import fcntl
import sys
import termios
import time
from collections.abc import Collection, Sequence

from lm_core.config import ModelConfig, SamplingConfig
from lm_core.errors import exit_code_of
from lm_pipeline.generation.prompt_loop import run_prompts
from lm_pipeline.generation.settings import Settings
from lm_pipeline.generation.writer import Model
from lm_tokenizer.adapters import train_tokenizer

CHARACTERS = "".join(map(chr, [*range(32, 127), 27]))


class Alphabet:
    """Draws the id after the last one, whatever the uniform."""

    ids_per_call = 1

    def __init__(self, seconds: float) -> None:
        self.last, self.seconds = 0, seconds

    def prefill(self, row: int, ids: Sequence[int], seen: Collection[int]) -> None:
        self.last = ids[-1]

    def next_ids(self, uniforms: Sequence[Sequence[float]], sampling: SamplingConfig) -> list[list[int]]:
        time.sleep(self.seconds)
        self.last = (self.last + 1) % len(CHARACTERS)
        return [[self.last]]

    def room(self, row: int) -> int:
        return 1

    def keep(self, rows: Sequence[int]) -> None:
        pass


def main() -> int:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C arrives as a signal
    tokenizer = train_tokenizer("characters", [CHARACTERS])
    config = ModelConfig(vocab_size=tokenizer.vocab_size, seq_len=16)
    model = Model("alphabet", config, tokenizer, Alphabet(float(sys.argv[1])))
    return exit_code_of(lambda: run_prompts(model, Settings(max_new_tokens=3)), "alphabet")


if __name__ == "__main__":
    sys.exit(main())
