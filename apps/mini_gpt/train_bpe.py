"""`uv run apps/mini_gpt/train_bpe.py`: train a tokenizer and a small GPT on your own text."""

from mini_gpt.train import main

raise SystemExit(main())
