"""Conformance of a backend on a batch's weights and segments, `score` and `marks`, as a pytest class."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lm_core.backend import Marks
from lm_core.config import Dtype, StepConfig
from lm_core.data.batches import Batch
from lm_core.model.positions import document_starts
from lm_core.reference import model as reference
from lm_core.rng import generator
from lm_core.testing.base import Conformance
from lm_core.testing.models import MODELS, packed_batch, rough_arrays, some_batches

KERNELS = {"fused": StepConfig(kernels="fused"), "scratch": StepConfig(kernels="scratch")}
both = pytest.mark.parametrize("kernels", KERNELS)


class BatchConformance(Conformance):
    """Weighted and packed batches against the float64 reference, and against each document alone."""

    @both
    @pytest.mark.parametrize("name", MODELS)
    def test_score_and_loss_of_packed_documents_are_the_reference_s(self, name: str, kernels: str) -> None:
        """`score` knows neither weights nor dropout; `evaluate` is its weighted mean."""
        config, weights, batch = MODELS[name], rough_arrays(MODELS[name]), packed_batch(MODELS[name])
        trainer = self.build(config.model_copy(update={"dropout": 0.3}), step=KERNELS[kernels])
        losses = trainer.score(batch)
        assert batch.weights is not None
        expected = reference.score(config, weights, batch.inputs, batch.targets, batch.segments)
        assert losses.dtype == np.float32
        np.testing.assert_allclose(losses, expected, atol=1e-5)
        assert float(trainer.evaluate(batch)) == pytest.approx((expected * batch.weights).mean(), abs=1e-5)
        assert losses.tobytes() == trainer.score(replace(batch, weights=None)).tobytes()

    @both
    @pytest.mark.parametrize("name", MODELS)
    def test_marks_of_packed_documents_are_the_reference_s(self, name: str, kernels: str) -> None:
        """A rank lies between those that the reference has when each logit may be off by rounding."""
        config, weights, batch = MODELS[name], rough_arrays(MODELS[name]), packed_batch(MODELS[name])
        trainer = self.build(config.model_copy(update={"dropout": 0.3}), step=KERNELS[kernels])
        marks = trainer.marks(batch)
        logits = reference.logits(config, weights, batch.inputs, batch.segments)
        expected = Marks.of(reference.token_marks(logits, batch.targets))
        assert marks.nats.tobytes() == trainer.score(batch).tobytes()
        np.testing.assert_allclose(marks.confidence, expected.confidence, atol=1e-5)
        above = logits - np.take_along_axis(logits, batch.targets[..., None].astype(np.int64), axis=-1)
        assert ((above > 1e-4).sum(axis=-1) <= marks.rank).all()
        assert (marks.rank <= (above > -1e-4).sum(axis=-1) - 1).all()
        assert (marks.rank == expected.rank).mean() > 0.9
        assert {array.dtype.name for array in (marks.nats, marks.rank, marks.confidence)} == {"float32", "int32"}

    @both
    def test_a_model_that_gives_all_ids_one_logit_is_right_nowhere(self, kernels: str) -> None:
        """Ties count against the target; a confidence is 1 of V then."""
        config = MODELS["gpt2"]
        weights = {name: np.zeros_like(array) for name, array in rough_arrays(config).items()}
        marks = self.build(config, step=KERNELS[kernels], weights=weights).marks(packed_batch(config))
        assert (marks.rank == config.vocab_size - 1).all()
        np.testing.assert_allclose(marks.confidence, 1 / config.vocab_size, rtol=1e-6)

    @both
    @pytest.mark.parametrize("name", MODELS)
    def test_weighted_gradients_are_the_slope_of_the_reference_loss(self, name: str, kernels: str) -> None:
        """Along one random direction through all parameters, by central differences in float64."""
        config, weights, batch = MODELS[name], rough_arrays(MODELS[name]), packed_batch(MODELS[name])
        _, grads = self.build(config, step=KERNELS[kernels]).gradients(batch)
        direction = {key: generator(0, "direction", key).standard_normal(grad.shape) for key, grad in grads.items()}

        def loss_at(distance: float) -> float:
            moved = {key: array + distance * direction[key] for key, array in weights.items()}
            return reference.loss(config, moved, batch.inputs, batch.targets, batch.weights, batch.segments)

        slope = (loss_at(1e-6) - loss_at(-1e-6)) / 2e-6
        size = float(np.sqrt(sum((grad.astype(np.float64) ** 2).sum() for grad in grads.values())))
        assert abs(sum(float((grad * direction[key]).sum()) for key, grad in grads.items()) - slope) < 1e-4 * size

    @both
    @pytest.mark.parametrize("name", MODELS)
    def test_packed_documents_have_the_gradients_of_each_alone(self, name: str, kernels: str) -> None:
        """Element by element: the mean over all targets is the sum of each document's, by its share of them."""
        config = MODELS[name]
        batch = packed_batch(config, rows=2, length=12)
        trainer = self.build(config, step=KERNELS[kernels])
        loss, grads = trainer.gradients(batch)
        expected_loss, expected = 0.0, {key: np.zeros_like(grad) for key, grad in grads.items()}
        for document in _documents(batch):
            share = document.tokens / batch.tokens
            own_loss, own = trainer.gradients(document)
            expected_loss += share * own_loss
            expected = {key: total + np.float32(share) * own[key] for key, total in expected.items()}
        assert loss == pytest.approx(expected_loss, abs=2e-6)
        for key, grad in grads.items():
            np.testing.assert_allclose(grad, expected[key], atol=2e-6, err_msg=key)

    @both
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_weights_of_1_are_none_to_the_bit_and_of_0_learn_nothing(self, kernels: str, dtype: Dtype) -> None:
        """What a target of weight 0 is changes nothing."""
        trainer = self.build(MODELS["llama"], step=KERNELS[kernels].model_copy(update={"dtype": dtype}))
        batch = some_batches(MODELS["llama"]).batch(1)
        ones = np.ones(batch.targets.shape, np.float32)
        _assert_same(trainer.gradients(replace(batch, weights=ones)), trainer.gradients(batch))
        loss, grads = trainer.gradients(replace(batch, weights=0 * ones))
        assert loss == 0
        assert not any(grad.any() for grad in grads.values())
        half = np.where(np.arange(ones.size).reshape(ones.shape) % 2, np.float32(2), np.float32(0))
        others = np.where(half == 0, (batch.targets + 1) % 31, batch.targets)
        masked, changed = (replace(batch, targets=targets, weights=half) for targets in (batch.targets, others))
        _assert_same(trainer.gradients(masked), trainer.gradients(changed))

    @both
    def test_accumulation_changes_only_the_rounding_of_weighted_documents(self, kernels: str) -> None:
        """Four micro-batches of one row, whose weights sum to something else each, against one of four."""
        config, batch = MODELS["llama"], packed_batch(MODELS["llama"])
        steps = [KERNELS[kernels].model_copy(update={"grad_accum_steps": count}) for count in (1, 4)]
        (loss, grads), (loss_of_parts, grads_of_parts) = (self.build(config, step=s).gradients(batch) for s in steps)
        assert loss == pytest.approx(loss_of_parts, abs=1e-6)
        for key, grad in grads.items():
            np.testing.assert_allclose(grads_of_parts[key], grad, atol=1e-6, err_msg=key)

    @both
    @pytest.mark.parametrize("name", ["testbed-d", "llama"])
    def test_packed_documents_in_bfloat16_are_near_float32(self, name: str, kernels: str) -> None:
        """To its three digits, values and gradients."""
        config, batch = MODELS[name], packed_batch(MODELS[name])
        wide, narrow = (
            self.build(config, step=KERNELS[kernels].model_copy(update={"dtype": dtype}))
            for dtype in ("float32", "bfloat16")
        )
        np.testing.assert_allclose(narrow.score(batch), wide.score(batch), atol=0.1)
        (_, expected), (_, grads) = wide.gradients(batch), narrow.gradients(batch)
        for key, grad in grads.items():
            assert np.linalg.norm(grad - expected[key]) < 0.03 * max(0.1, float(np.linalg.norm(expected[key]))), key

    def test_checkpointed_gradients_of_packed_documents_are_the_same(self) -> None:
        """With dropout and micro-batches; and a step, compiled where that takes no time."""
        config, batch = MODELS["llama"].model_copy(update={"dropout": 0.2}), packed_batch(MODELS["llama"])
        kept, again = (
            self.build(
                config, step=StepConfig(grad_accum_steps=2, gradient_checkpointing=checkpointed, compile=compiled)
            )
            for checkpointed, compiled in ((False, False), (True, self.compiles_fast))
        )
        (loss, grads), (loss_again, grads_again) = (trainer.gradients(batch) for trainer in (kept, again))
        assert loss == loss_again
        for key, grad in grads.items():
            np.testing.assert_allclose(grads_again[key], grad, atol=1e-6, err_msg=key)
        losses = [[float(trainer.step(batch, 1e-3)["loss_nats"]) for _ in range(2)] for trainer in (kept, again)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)

    def test_activation_norms_of_packed_documents_are_those_of_each_alone(self) -> None:
        """Mean squares over the tokens, so each document counts by its length."""
        batch = packed_batch(MODELS["testbed-d"], rows=1)
        trainer = self.build(MODELS["testbed-d"])
        squares = [
            (document.tokens / batch.tokens, trainer.activation_norms(document)) for document in _documents(batch)
        ]
        for block, rms in trainer.activation_norms(batch).items():
            assert rms**2 == pytest.approx(sum(share * norms[block] ** 2 for share, norms in squares), rel=1e-5)


def _documents(batch: Batch) -> Iterator[Batch]:
    """Each document of a packed batch as a batch of one row, without segments."""
    assert batch.segments is not None
    assert batch.weights is not None
    for row, starts in enumerate(document_starts(batch.segments)):
        for start in np.unique(starts):
            inside = starts == start
            arrays = (array[row][inside][None] for array in (batch.inputs, batch.targets, batch.weights))
            yield Batch(*arrays)


def _assert_same(ours: tuple[float, dict[str, NDArray[Any]]], theirs: tuple[float, dict[str, NDArray[Any]]]) -> None:
    """Loss and gradients, equal to the bit."""
    assert ours[0] == theirs[0]
    for key, grad in ours[1].items():
        np.testing.assert_array_equal(grad, theirs[1][key], err_msg=key)
