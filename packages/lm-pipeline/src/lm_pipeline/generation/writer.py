"""A model that continues prompts, one after another.

prompt --read_prompt--> ids --Generation--> ids --deltas--> text --> shown as it comes
"""

from collections.abc import Callable
from dataclasses import dataclass

from lm_core.config import ModelConfig
from lm_core.continuation import Continuation, Ending, Reason, continue_rows
from lm_core.sampling import Decoder, Generation
from lm_pipeline.generation.ending import eos_ids
from lm_pipeline.generation.prompt import read_prompt
from lm_pipeline.generation.settings import Settings
from lm_tokenizer.adapters import TextTokenizer
from lm_tokenizer.text_deltas import text_deltas_of

Judge = Callable[[str], tuple[str, Callable[[Continuation], str]]]
"""Takes what was typed, and gives the prompt and what is shown behind its continuation.

Raises:
    UserError: for what cannot be read.
"""


@dataclass(frozen=True)
class Model:
    """A trained model, and what belongs to it."""

    name: str
    """Description for the user."""
    config: ModelConfig
    tokenizer: TextTokenizer
    decoder: Decoder
    """With one row, which draws ids of the tokenizer alone."""
    judge: Judge | None = None
    """Reads what was typed, where that is not the prompt itself, and judges what the model makes of it."""


class Writer:
    """Writes texts by settings that may be changed between two of them. Every prompt takes the next seed.

    Args:
        model: that writes.
        settings: at the start.
        show: takes text as it comes, the prompt first.
        note: takes a line that is not part of the text.
    """

    def __init__(
        self, model: Model, settings: Settings, show: Callable[[str], None], note: Callable[[str], None]
    ) -> None:
        self.model, self.settings, self.show, self.note = model, settings, show, note
        self._eos_ids = eos_ids(model.tokenizer)

    def write(self, prompt: str) -> Reason:
        """Show the prompt and what follows it; returns why it ended, which is "interrupted" for Ctrl-C.

        Raises:
            UserError: for a prompt that cannot be read; it has taken its seed nonetheless.
        """
        model, settings = self.model, self.settings
        self.settings = settings.model_copy(update={"seed": settings.seed + 1})
        prompt, verdict = model.judge(prompt) if model.judge else (prompt, None)
        ids = read_prompt(prompt, model.tokenizer, model.config.seq_len, self.note)

        def begin() -> Generation:
            sampling = settings.sampling(model.tokenizer.vocab_size)
            return Generation(model.decoder, [ids], model.config.seq_len, settings.seed, sampling)

        self.show(prompt)
        ending = Ending(settings.max_new_tokens, self._eos_ids, settings.stop)
        [written] = continue_rows(
            begin, [text_deltas_of(model.tokenizer, ids, prompt)], ending, show=lambda _row, text: self.show(text)
        )
        if verdict and written.reason != "interrupted":
            self.show(verdict(written))
        return written.reason
