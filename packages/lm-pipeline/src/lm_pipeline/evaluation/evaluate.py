"""Evaluation of a saved model: built once, then its windows, then its figures."""

from collections.abc import Callable
from typing import Any

from lm_core.backend import Backend, Scorer
from lm_core.config import StepConfig
from lm_core.errors import UserError
from lm_core.interchange.architecture import without_padding
from lm_core.model.memory import check_memory, decoding_memory
from lm_pipeline.evaluation.text import EvaluationText
from lm_pipeline.evaluation.totals import Totals
from lm_pipeline.evaluation.windows import SlidingWindows
from lm_pipeline.saved_model import SavedModel
from lm_pipeline.training import text_byte_lengths


def build(model: SavedModel, backend: Backend, step: StepConfig) -> Scorer:
    """The model with the tokenizer's ids alone: those that rounding its vocabulary added are never drawn or exported.

    Raises:
        UserError: when the device's memory does not suffice.
    """
    config, weights = without_padding(model.config, model.weights, model.tokenizer.vocab_size)
    check_memory(decoding_memory(config, step, 1), backend.memory(step), "evaluation")
    return backend.scorer(config, step, weights)


def windows_of(
    model: SavedModel,
    text: EvaluationText,
    stride: int = 0,
    batch_size: int = 16,
    limit: int = 0,
    *,
    within_documents: bool = False,
) -> SlidingWindows:
    """The windows of a text that `evaluate` reads; arguments and errors as there, and nothing has been read yet."""
    end = model.tokenizer.eos_id if within_documents else None
    if within_documents and end is None:
        raise UserError("within_documents: the tokenizer has no end-of-text token, so nothing tells documents apart")
    length = model.config.seq_len
    return SlidingWindows(text.ids, batch_size, length, stride or length, limit, end)


def evaluate(
    scorer: Scorer,
    model: SavedModel,
    text: EvaluationText,
    stride: int = 0,
    batch_size: int = 16,
    limit: int = 0,
    *,
    within_documents: bool = False,
    show: Callable[[int, int], None] = lambda done, targets: None,
) -> dict[str, Any]:
    """Figures of a model on a text, see docs/evaluation.md.

    Args:
        scorer: of the model.
        model: whose context the windows fill.
        text: its ids.
        stride: tokens from one window to the next; 0: the context, so that windows do not overlap.
        batch_size: windows at a time.
        limit: targets that count at most; 0: all.
        within_documents: whether attention stays within documents, as where the model was trained so.
        show: is called with the targets that are done, and all.

    Raises:
        UserError: when the text has no target, or the windows would leave some out.
        NonFiniteError: when a loss is not finite.
    """
    sliding = windows_of(model, text, stride, batch_size, limit, within_documents=within_documents)
    totals = Totals(sliding.length, text_byte_lengths(model.tokenizer))
    for window in sliding:
        totals.add(scorer.marks(window.batch), window)
        show(totals.targets, sliding.targets)
    whole = sliding.targets == len(text.ids) - 1
    said = {"context": sliding.length, "stride": sliding.stride, "within_documents": within_documents}
    return {**said, **totals.figures(text.text_bytes if whole else None)}
