"""`uv run apps/rlvr`."""

from rlvr.cli import main

raise SystemExit(main())
