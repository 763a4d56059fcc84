"""`uv run apps/transformer_lm`."""

from transformer_lm.cli import main

raise SystemExit(main())
