"""The metric by which trials are compared: a key of a run's result.json."""

import difflib

from lm_core.errors import UserError
from lm_core.run.session import TEST_LOSS, result_of
from lm_core.run.state import RunState

KNOWN = (*result_of(RunState()), TEST_LOSS)


def check_metric(name: str, key: str) -> None:
    """Check a metric's name before the first trial, and not after the last.

    Args:
        name: of the metric.
        key: that gives it, which an error names.

    Raises:
        UserError: when no run's result has it.
    """
    if name not in KNOWN:
        near = difflib.get_close_matches(name, KNOWN, n=1)
        what = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(KNOWN)}"
        raise UserError(f"{key}: a run's result has no {name!r}; {what}")
