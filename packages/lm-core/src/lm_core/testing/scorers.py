"""Conformance of a backend's scorer, as a pytest class; the oracle is its own trainer, to the bit."""

from typing import Any

import numpy as np
import pytest

from lm_core.backend import Scorer
from lm_core.config import SamplingConfig, StepConfig
from lm_core.data.batches import Batch
from lm_core.testing.base import Conformance
from lm_core.testing.models import MODELS, packed_batch, rough_arrays, some_batches


class ScorerConformance(Conformance):
    """A model that is read is the one that is trained."""

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    @pytest.mark.parametrize("name", MODELS)
    def test_a_scorer_reads_what_a_trainer_of_the_same_weights_does(self, name: str, dtype: str) -> None:
        """After steps of training, of packed documents with weights, without the dropout that it trained with."""
        config, step = MODELS[name].model_copy(update={"dropout": 0.3}), StepConfig(dtype=dtype)
        trainer, batch = self.build(config, step=step), packed_batch(config)
        for number in (1, 2):
            trainer.step(some_batches(config).batch(number), 1e-2)
        scorer = self.scorer(config, step, trainer.weights())
        assert_same_bits(_read(scorer, batch), _read(trainer, batch))
        scorer.load(rough_arrays(config))
        assert_same_bits(_read(scorer, batch), _read(self.scorer(config, step), batch))

    def test_a_scorer_has_no_part_of_training(self) -> None:
        """No optimizer, and no state of one."""
        scorer = self.scorer(MODELS["llama"])
        for name in ("step", "optimizer", "optimizer_state", "average", "averaged", "gradients", "snapshot"):
            assert not hasattr(scorer, name), name


def _read(scorer: Scorer, batch: Batch) -> dict[str, Any]:
    """Everything that there is to read, by name."""
    marks, decoder = scorer.marks(batch), scorer.decoder()
    decoder.prefill(0, [1, 2, 3], set())
    found: dict[str, Any] = {
        "loss": float(scorer.evaluate(batch)),
        "score": scorer.score(batch),
        "nats": marks.nats,
        "rank": marks.rank,
        "confidence": marks.confidence,
        "logits": scorer.logits(batch.inputs),
        "norms": list(scorer.activation_norms(batch).values()),
        "drawn": decoder.next_ids([[0.3] for _ in range(decoder.ids_per_call)], SamplingConfig()),
    }
    for i, layer in enumerate(scorer.tap(batch)):
        found |= {f"attention {i}": layer.attention(), f"residual {i}": layer.residual()}
        found[f"lens {i}"], found[f"choice {i}"] = layer.lens(batch.targets)
    return found | scorer.weights()


def assert_same_bits(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Equal names, and equal arrays under each."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)
