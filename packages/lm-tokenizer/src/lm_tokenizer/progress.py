"""Progress bars, on a terminal; elsewhere tqdm is not imported."""

import os
from contextlib import nullcontext
from typing import Any


class _NoBar:
    """Counts, and shows nothing."""

    n = 0
    total: int | None = None

    def update(self, n: int) -> None:
        """Count."""
        self.n += n


def progress_bar(show: bool, **options: Any) -> Any:
    """A context with tqdm's bar if it is to be shown and standard error is a terminal."""
    if not show or not os.isatty(2):
        return nullcontext(_NoBar())
    from tqdm import tqdm

    return tqdm(**options, disable=None)  # standard error may be another file in Python
