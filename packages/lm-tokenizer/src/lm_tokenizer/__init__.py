"""From-scratch byte-level BPE: trains, encodes and decodes; exact against the reference, and fast.

from lm_tokenizer import Tokenizer

tokenizer = Tokenizer.train("corpus.txt", vocab_size=8000, special_tokens=["<|endoftext|>"])
ids = tokenizer.encode("Hello world")
assert tokenizer.decode(ids) == "Hello world"
"""

from lm_tokenizer.errors import SpecialTokenError, TokenizerError
from lm_tokenizer.tokenizer import Tokenizer
from lm_tokenizer.vocab import Vocabulary

__all__ = ["SpecialTokenError", "Tokenizer", "TokenizerError", "Vocabulary"]
