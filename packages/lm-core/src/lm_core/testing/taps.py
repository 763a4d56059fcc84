"""Conformance of a backend's tap, as a pytest class; the oracle is the float64 reference."""

from dataclasses import fields

import numpy as np
import pytest

from lm_core.config import StepConfig
from lm_core.reference import model as reference
from lm_core.testing.base import Conformance
from lm_core.testing.models import MODELS, packed_batch, rough_arrays, some_batches


class TapConformance(Conformance):
    """What a study reads of a model, block by block, against the float64 reference."""

    @pytest.mark.parametrize("is_packed", [False, True], ids=["whole", "packed"])
    @pytest.mark.parametrize("name", MODELS)
    def test_every_layer_is_the_reference_s(self, name: str, is_packed: bool) -> None:
        """Attention weights, residual stream and logit lens; dropout and weights of targets play no part."""
        config, weights = MODELS[name], rough_arrays(MODELS[name])
        batch = packed_batch(config) if is_packed else some_batches(config).batch(1)
        layers = list(self.scorer(config.model_copy(update={"dropout": 0.3})).tap(batch))
        assert len(layers) == config.n_layers
        for i, layer in enumerate(layers):
            attention = reference.attention_weights(config, weights, batch.inputs, i, batch.segments)
            np.testing.assert_allclose(layer.attention(), attention, atol=2e-6)
            residual = reference.residual(config, weights, batch.inputs, i + 1, batch.segments)
            np.testing.assert_allclose(layer.residual(), residual, atol=1e-5)
            logits = reference.lens(config, weights, residual)
            nats, ids = layer.lens(batch.targets)
            np.testing.assert_allclose(nats, reference.token_losses(logits, batch.targets), atol=1e-5)
            np.testing.assert_array_equal(ids, logits.argmax(axis=-1))
            assert {layer.attention().dtype, layer.residual().dtype, nats.dtype} == {np.dtype(np.float32)}

    @pytest.mark.parametrize(("queries", "elements"), [(128, 1 << 20), (3, 1), (4, 200)])
    @pytest.mark.parametrize("is_packed", [False, True], ids=["whole", "packed"])
    def test_attention_totals_are_the_reference_s_in_any_parts(
        self, monkeypatch: pytest.MonkeyPatch, is_packed: bool, queries: int, elements: int
    ) -> None:
        """Distances, entropies and first tokens, by blocks of queries that divide the length or do not."""
        for name, value in (("QUERIES", queries), ("ELEMENTS", elements)):
            monkeypatch.setattr(f"lm_{self.backend_name}.attention_totals.{name}", value)
        config, weights = MODELS["llama"], rough_arrays(MODELS["llama"])
        batch = packed_batch(config) if is_packed else some_batches(config).batch(1)
        for i, layer in enumerate(self.scorer(config).tap(batch)):
            attention = reference.attention_weights(config, weights, batch.inputs, i, batch.segments)
            expected, found = reference.attention_totals(attention), layer.attention_totals()
            for field in fields(expected):
                one, other = getattr(found, field.name), getattr(expected, field.name)
                np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-5, err_msg=field.name)

    def test_attention_totals_of_bfloat16_add_up_to_the_queries(self) -> None:
        """Whatever the type of the activations, a query gives away 1."""
        config, batch = MODELS["llama"], packed_batch(MODELS["llama"])
        for layer in self.scorer(config, step=StepConfig(dtype="bfloat16")).tap(batch):
            totals = layer.attention_totals()
            np.testing.assert_allclose(totals.distance.sum(axis=1), batch.tokens, rtol=1e-5)
            assert totals.distance.dtype == totals.entropy.dtype == totals.first.dtype == np.float64

    def test_some_heads_are_those_of_all_also_where_they_share_keys(self) -> None:
        """Two at a time, of four that two kv heads serve."""
        config = MODELS["llama"]
        for layer in self.scorer(config).tap(packed_batch(config)):
            some = [layer.attention(slice(first, first + 2)) for first in (0, 2)]
            np.testing.assert_allclose(np.concatenate(some, axis=1), layer.attention(), atol=1e-6)

    def test_attention_in_bfloat16_is_near_float32_and_sums_to_1(self) -> None:
        """The softmax is in float32 whatever the type of the activations."""
        config, batch = MODELS["llama"], packed_batch(MODELS["llama"])
        wide, narrow = (
            self.scorer(config, step=StepConfig(dtype=dtype)).tap(batch) for dtype in ("float32", "bfloat16")
        )
        for expected, layer in zip(wide, narrow, strict=True):
            weights = layer.attention()
            np.testing.assert_allclose(weights, expected.attention(), atol=0.1)
            np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)

    def test_the_lens_of_the_last_layer_is_the_score_also_in_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Three tokens at a time, as a large vocabulary makes them, in float32 and bfloat16."""
        config = MODELS["gpt2"]
        monkeypatch.setattr(f"lm_{self.backend_name}.tap.LOGITS", 3 * config.vocab_size)
        for step, close in ((StepConfig(), 2e-6), (StepConfig(dtype="bfloat16"), 0.05)):
            scorer, batch = self.scorer(config, step=step), packed_batch(config)
            *_, last = scorer.tap(batch)
            np.testing.assert_allclose(last.lens(batch.targets)[0], scorer.score(batch), atol=close)
