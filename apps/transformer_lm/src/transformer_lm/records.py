"""Records as a person reads them on the console."""

from collections.abc import Mapping
from typing import Any

_LINES = {
    "train": "iteration {step:,}: training loss {loss_nats:.3f}",
    "eval": "iteration {step:,}: validation loss {loss_nats:.3f}",
    "test": "iteration {step:,}: test loss {loss_nats:.3f}",
}
_FIGURES = {
    "perplexity": "{:.2f} perplexity",
    "bits_per_byte": "{:.4f} bits per byte",
    "tokens_per_second": "{:,.0f} tokens/s",
}


def line(kind: str, step: int, values: Mapping[str, Any]) -> str:
    """One line on a record of a run's log."""
    figures = [form.format(values[name]) for name, form in _FIGURES.items() if name in values]
    return ", ".join([_LINES[kind].format(step=step, **values), *figures])
