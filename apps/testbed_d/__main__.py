"""`uv run apps/testbed_d`."""

from testbed_d.cli import main

raise SystemExit(main())
