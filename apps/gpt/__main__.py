"""`uv run apps/gpt`."""

from gpt.cli import main

raise SystemExit(main())
