"""`uv run apps/mini_gpt/sample_bpe.py`: let a trained model continue a prompt."""

from mini_gpt.sample import main

raise SystemExit(main())
