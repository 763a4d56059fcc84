"""Figures of a text from the marks of its targets: sums over batches, in float64, and what they come to."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_core.backend import Marks
from lm_core.errors import NonFiniteError
from lm_core.run.evaluation import Score
from lm_pipeline.evaluation.calibration import Calibration
from lm_pipeline.evaluation.positions import Positions
from lm_pipeline.evaluation.windows import Window

_TOP = 5


class Totals:
    """Adds up the marks of targets.

    Args:
        length: the longest window, in tokens.
        byte_lengths: UTF-8 bytes of text of each id, 0 for special tokens, [V].
    """

    def __init__(self, length: int, byte_lengths: NDArray[np.integer[Any]]) -> None:
        self.byte_lengths = byte_lengths
        self.targets, self.nats, self.text_bytes, self.right, self.near = 0, 0.0, 0, 0, 0
        self.positions, self.calibration = Positions(length), Calibration()

    def add(self, marks: Marks, window: Window) -> None:
        """Take those targets of a window's batch that count.

        Raises:
            NonFiniteError: when the model gives one of them a loss that is not a number, or infinite.
        """
        counted = window.counted
        nats, rank = marks.nats[counted], marks.rank[counted]
        if not np.isfinite(nats).all():
            raise NonFiniteError(f"the model gives a target a loss of {nats[~np.isfinite(nats)][0]}: it cannot be used")
        self.targets += nats.size
        self.nats += float(nats.sum(dtype=np.float64))
        self.text_bytes += int(self.byte_lengths[window.batch.targets[counted]].sum())
        self.right += int((rank == 0).sum())
        self.near += int((rank < _TOP).sum())
        self.positions.add(nats, window.context[counted])
        self.calibration.add(marks.confidence[counted], rank == 0)

    def figures(self, text_bytes: int | None = None) -> dict[str, Any]:
        """The figures under the names of docs/evaluation.md.

        Args:
            text_bytes: UTF-8 bytes of the targets' text where they are known better than by the ids, as of a text that
                the tokenizer does not give back exactly.
        """
        of_text = self.text_bytes if text_bytes is None else text_bytes
        score = Score(self.nats / self.targets, self.targets, of_text)
        return {
            "targets": self.targets,
            "text_bytes": of_text,
            "loss_nats": score.loss_nats,
            "bits_per_token": score.bits,
            **score.bits_per_byte(),
            "perplexity": score.perplexity(),
            "accuracy": self.right / self.targets,
            "top5_accuracy": self.near / self.targets,
            "calibration_error": self.calibration.error,
            "loss_by_position": self.positions.table(),
            "calibration": self.calibration.table(),
        }
