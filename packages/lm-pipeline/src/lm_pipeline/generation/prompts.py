"""The prompts of a call, as text and as ids."""

import sys
from collections.abc import Callable
from pathlib import Path

from lm_core.disk.untrusted import read_file_or_pipe
from lm_core.errors import UserError
from lm_core.terminal import is_terminal
from lm_pipeline.generation.config import InferConfig
from lm_pipeline.generation.prompt import SPACE_AT_THE_END, ends_before_a_word
from lm_tokenizer.adapters import TextTokenizer
from lm_tokenizer.errors import TokenizerError

MOST_PROMPT_BYTES = 1 << 26
"""Maximum size of a file of prompts, and of standard input."""


def read_prompts(config: InferConfig) -> list[str]:
    """The prompts that the config names, in order.

    Raises:
        UserError: when there is none, or a file or pipe cannot be read.
    """
    prompts = [_standard_input() if prompt == "-" else prompt for prompt in config.prompt]
    if config.prompts_file:
        prompts += _lines(Path(config.prompts_file))
    if not prompts and not is_terminal(sys.stdin):
        prompts = [_standard_input()]
    if not prompts:
        raise UserError("prompt: give a text to continue, or prompts_file, or a pipe")
    return prompts


def encode_prompts(
    prompts: list[str], tokenizer: TextTokenizer, seq_len: int, start: int | None, note: Callable[[str], None]
) -> list[list[int]]:
    """The ids of every prompt; of one that is longer than the model's context, its end will be used, which is noted.

    Args:
        prompts: texts.
        tokenizer: of the model.
        seq_len: what the model reads at once, in tokens.
        start: the id that an empty prompt stands for.
        note: takes what there is to say.

    Raises:
        UserError: for a prompt that has no ids.
    """
    encoded = [_encode(number, prompt, tokenizer, start) for number, prompt in enumerate(prompts, 1)]
    if spaced := [number for number, prompt in enumerate(prompts, 1) if ends_before_a_word(prompt, tokenizer)]:
        note(f"note: prompt {spaced[0]} {SPACE_AT_THE_END}")
    longest = max(range(len(encoded)), key=lambda row: len(encoded[row]))
    if len(encoded[longest]) > seq_len:
        note(
            f"note: prompt {longest + 1} has {len(encoded[longest]):,} tokens, and the model reads {seq_len:,} at once:"
            " of such a prompt the end is used"
        )
    return encoded


def _encode(number: int, prompt: str, tokenizer: TextTokenizer, start: int | None) -> list[int]:
    try:
        ids = tokenizer.encode(prompt, allowed_special="all", disallowed_special=())
    except TokenizerError as error:
        raise UserError(f"prompt {number}: {error}") from None
    if ids:
        return ids
    if start is None:
        raise UserError(
            f"prompt {number} is empty, and the tokenizer has no end-of-text token to start from: give a text"
        )
    return [start]


def _standard_input() -> str:
    try:
        text = sys.stdin.read(MOST_PROMPT_BYTES + 1).removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 at byte {error.start}") from None
    if len(text) > MOST_PROMPT_BYTES:
        raise UserError(f"standard input has more than {MOST_PROMPT_BYTES:,} characters: is that a prompt?")
    if not text:
        raise UserError('prompt: standard input is empty; --prompt "" starts from the end-of-text token')
    return text


def _lines(path: Path) -> list[str]:
    try:
        lines = read_file_or_pipe(path, MOST_PROMPT_BYTES).decode().splitlines()
    except OSError as error:
        raise UserError(f"prompts_file: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"prompts_file: {path} is not UTF-8 at byte {error.start}") from None
    if not lines:
        raise UserError(f"prompts_file: {path} is empty")
    return lines
