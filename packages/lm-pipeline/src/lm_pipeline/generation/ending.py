"""Ids that end a text."""

from lm_tokenizer.adapters import TextTokenizer


def eos_ids(tokenizer: TextTokenizer) -> tuple[int, ...]:
    """The ids at any of which a text ends.

    The <eos> of a vocabulary of words is the end of a line (Penn Treebank, WikiText), and texts have many.
    """
    return () if tokenizer.name == "words" or tokenizer.eos_id is None else (tokenizer.eos_id,)
