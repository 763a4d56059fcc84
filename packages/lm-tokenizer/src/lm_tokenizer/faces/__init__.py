"""Faces of other libraries over our tokenizer, for code that was written for them; the libraries are not needed.

Tokenizer --as_tiktoken--> tiktoken.Encoding      --as_huggingface--> transformers.PreTrainedTokenizerFast
"""
