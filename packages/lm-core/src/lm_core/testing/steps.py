"""Conformance of a backend's trainer, as a pytest class; the oracle is the float64 reference."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lm_core.backend import Trainer
from lm_core.config import AdamWConfig, Dtype, KBetaConfig, StepConfig
from lm_core.data.batches import LengthRule, RandomWindows
from lm_core.model.init import initial_arrays
from lm_core.model.parameters import parameter_table
from lm_core.optim import state_shapes
from lm_core.reference import model as reference
from lm_core.reference.optim import reference_optimizer
from lm_core.rng import generator
from lm_core.testing.base import Conformance
from lm_core.testing.models import ADAMW, KBETA, MODELS, OPTIMIZERS, rough_arrays, some_batches, without_key_biases


class StepConformance(Conformance):
    """A trainer against the float64 reference."""

    @pytest.mark.parametrize("name", MODELS)
    def test_initial_weights_arrive_to_the_bit(self, name: str) -> None:
        """Loaded weights and state are returned unchanged."""
        arrays = initial_arrays(MODELS[name], 7)
        weights = self.build(MODELS[name], weights=arrays).weights()
        assert list(weights) == list(arrays)
        assert all(weights[key].tobytes() == arrays[key].tobytes() for key in arrays)

    @pytest.mark.parametrize("name", MODELS)
    def test_logits_and_loss_are_the_reference_s(self, name: str) -> None:
        """Float32 against float64."""
        config, weights = MODELS[name], rough_arrays(MODELS[name])
        trainer, batch = self.build(config), some_batches(config).batch(1)
        expected = reference.logits(config, weights, batch.inputs)
        np.testing.assert_allclose(trainer.logits(batch.inputs), expected, atol=1e-5)
        expected_loss = reference.loss(config, weights, batch.inputs, batch.targets)
        assert float(trainer.evaluate(batch)) == pytest.approx(expected_loss, abs=1e-5)

    @pytest.mark.parametrize("name", MODELS)
    def test_gradients_are_the_slope_of_the_reference_loss(self, name: str) -> None:
        """Along one random direction per parameter, by central differences in float64."""
        config, weights = MODELS[name], rough_arrays(MODELS[name])
        batch = some_batches(config).batch(1)
        _, grads = self.build(config).gradients(batch)
        assert list(grads) == list(weights)
        for key, grad in grads.items():
            direction = generator(0, "direction", key).standard_normal(grad.shape)

            def loss_at(distance: float, key: str = key, direction: NDArray[Any] = direction) -> float:
                moved: dict[str, NDArray[Any]] = {**weights, key: weights[key] + distance * direction}
                return reference.loss(config, moved, batch.inputs, batch.targets)

            slope = (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5
            # The gradient of a key bias is 0 in exact arithmetic: below 1e-2 its size is no scale to go by.
            scale = max(1e-2, float(np.linalg.norm(grad))) * float(np.linalg.norm(direction))
            assert abs(float((grad * direction).sum()) - slope) < 1e-4 * scale, key

    @pytest.mark.parametrize("name", MODELS)
    def test_no_position_sees_the_future(self, name: str) -> None:
        """Changing an id changes no logits before it."""
        trainer, ids = self.build(MODELS[name]), some_batches(MODELS[name]).batch(1).inputs
        changed = ids.copy()
        changed[:, 9] = (changed[:, 9] + 1) % 31
        before, after = trainer.logits(ids), trainer.logits(changed)
        np.testing.assert_array_equal(before[:, :9], after[:, :9])
        assert (before[:, 9] != after[:, 9]).any()

    def test_positions_that_are_never_reached_have_no_gradient(self) -> None:
        """Causality by gradient: a batch of 16 leaves the table's rows from 16 on alone."""
        config = MODELS["testbed-d"]
        _, grads = self.build(config).gradients(some_batches(config, length=16).batch(1))
        assert not grads["pos_embed.weight"][16:].any()
        assert grads["pos_embed.weight"][:16].any(axis=1).all()

    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_ten_steps_are_the_reference_s(self, name: str) -> None:
        """The reference optimizer, fed the backend's own gradients, goes where the backend goes."""
        config, optimizer = MODELS["testbed-d"], OPTIMIZERS[name]
        trainer, batches = self.build(config, optimizer), some_batches(config)
        oracle = reference_optimizer(optimizer, parameter_table(config))
        params = {key: array.astype(np.float64) for key, array in rough_arrays(config).items()}
        for step in range(1, 11):
            batch = batches.batch(step)
            _, grads = trainer.gradients(batch)
            params = oracle.update(params, grads, 1e-3 * step)
            trainer.step(batch, 1e-3 * step)
        for key, array in trainer.weights().items():
            np.testing.assert_allclose(array, params[key], rtol=2e-5, atol=2e-6, err_msg=key)
        expected = {"sunspike", "beta2"} if isinstance(optimizer, KBetaConfig) else set()
        diagnostics = trainer.diagnostics()
        assert set(diagnostics) == expected
        for kind, values in diagnostics.items():
            assert values == pytest.approx(getattr(oracle, kind), rel=1e-5)
        state = trainer.optimizer_state()
        for kind in {"grad_ema", "beta2_product"} if expected else ():
            ours = {key.removeprefix(f"{kind}."): float(array) for key, array in state.items() if key.startswith(kind)}
            assert ours == pytest.approx(getattr(oracle, kind), rel=1e-4), kind

    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_a_loaded_state_goes_on_to_the_bit(self, name: str) -> None:
        """Five steps, then a fresh trainer from what was saved: the same next five."""
        config, optimizer = MODELS["testbed-d"], OPTIMIZERS[name]
        first, batches = self.build(config, optimizer), some_batches(config)
        _take(first, batches, 1, 5)
        state = first.optimizer_state()
        assert {key: np.shape(array) for key, array in state.items()} == state_shapes(
            optimizer, parameter_table(config)
        )
        second = self.build(config, optimizer, weights=initial_arrays(config, 99))
        second.load(first.weights(), state)
        _take(first, batches, 6, 10)
        _take(second, batches, 6, 10)
        _assert_same(first.weights(), second.weights())
        _assert_same(first.optimizer_state(), second.optimizer_state())

    @pytest.mark.parametrize("name", ["adamw-average", "kbeta-average"])
    def test_the_average_of_the_weights_is_kept_and_evaluated(self, name: str) -> None:
        """By its definition in float64; training is not changed by it, nor by having been evaluated."""
        config, optimizer = MODELS["testbed-d"], OPTIMIZERS[name]
        trainer, batches = self.build(config, optimizer), some_batches(config)
        plain, decay = self.build(config, optimizer.model_copy(update={"average": 0.0})), optimizer.average
        average = {key: array.astype(np.float64) for key, array in trainer.weights().items()}
        for step in range(1, 9):
            _take(trainer, batches, step, step)
            average = {key: decay * average[key] + (1 - decay) * array for key, array in trainer.weights().items()}
        state = trainer.optimizer_state()
        for key, expected in average.items():
            np.testing.assert_allclose(state[f"average.{key}"], expected, rtol=1e-5, atol=1e-7, err_msg=key)
        batch = batches.batch(9)
        weights = {key: state[f"average.{key}"] for key in average}
        with trainer.averaged():
            loss = float(trainer.evaluate(batch))
            _assert_same(trainer.weights(), weights)
        assert loss == float(self.build(config, weights=weights).evaluate(batch)) != float(trainer.evaluate(batch))
        _take(plain, batches, 1, 9)
        _take(trainer, batches, 9, 9)
        _assert_same(trainer.weights(), plain.weights())

    def test_what_was_copied_out_does_not_change_with_the_next_step(self) -> None:
        """Weights and state are copies, not views of arrays that are updated in place."""
        config = MODELS["testbed-d"]
        trainer, batches = self.build(config, KBETA), some_batches(config)
        _take(trainer, batches, 1, 2)
        weights, state = trainer.weights(), trainer.optimizer_state()
        before = {key: array.copy() for key, array in {**weights, **state}.items()}
        _take(trainer, batches, 3, 4)
        _assert_same({**weights, **state}, before)

    @pytest.mark.parametrize("name", ["adamw", "kbeta", "muon"])
    def test_a_snapshot_is_read_as_it_was_taken(self, name: str) -> None:
        """Steps go on between the taking and the reading, which is another thread's; twice."""
        config = MODELS["testbed-d"]
        batches = some_batches(config)
        for compiled in {False, self.compiles_fast}:
            trainer = self.build(config, OPTIMIZERS[name], StepConfig(compile=compiled))
            with ThreadPoolExecutor(1) as thread:
                for step in (1, 5):
                    _take(trainer, batches, step, step)
                    weights, state = trainer.weights(), trainer.optimizer_state()
                    read = trainer.snapshot()
                    _take(trainer, batches, step + 1, step + 3)
                    later_weights, later_state = thread.submit(read).result()
                    _assert_same(later_weights, weights)
                    _assert_same(later_state, state)

    def test_accumulation_changes_only_the_rounding(self) -> None:
        """Four micro-batches of one row against one of four."""
        config = MODELS["llama"]
        whole, parts = self.build(config), self.build(config, step=StepConfig(grad_accum_steps=4))
        batch = some_batches(config).batch(1)
        (loss, grads), (loss_of_parts, grads_of_parts) = whole.gradients(batch), parts.gradients(batch)
        assert loss == pytest.approx(loss_of_parts, abs=1e-6)
        for key, grad in grads.items():
            np.testing.assert_allclose(grads_of_parts[key], grad, atol=1e-6)

    def test_clipping_shortens_a_long_gradient(self) -> None:
        """The reference on clipped gradients; the metric is the norm before clipping."""
        config, optimizer = MODELS["testbed-d"], KBETA
        trainer = self.build(config, optimizer.model_copy(update={"grad_clip": 0.1}))
        batch = some_batches(config).batch(1)
        _, grads = trainer.gradients(batch)
        norm = float(np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in grads.values())))
        assert norm > 0.1
        clipped = {key: g * (0.1 / (norm + 1e-6)) for key, g in grads.items()}
        params = {key: array.astype(np.float64) for key, array in rough_arrays(config).items()}
        params = reference_optimizer(optimizer, parameter_table(config)).update(params, clipped, 1e-3)
        assert float(trainer.step(batch, 1e-3)["grad_norm"]) == pytest.approx(norm, rel=1e-5)
        for key, array in trainer.weights().items():
            np.testing.assert_allclose(array, params[key], rtol=1e-5, atol=2e-6)

    def test_each_parameter_s_gradient_norm_is_told(self) -> None:
        """In the order of the table and before clipping; together they are `grad_norm`."""
        config = MODELS["testbed-d"]
        trainer = self.build(config, AdamWConfig(grad_clip=0.1))
        batch = some_batches(config).batch(1)
        _, grads = trainer.gradients(batch)
        metrics = trainer.step(batch, 1e-3)
        norms = metrics["grad_norms"].tolist()
        assert norms == pytest.approx([float(np.linalg.norm(grad)) for grad in grads.values()], rel=1e-5, abs=1e-9)
        assert float(metrics["grad_norm"]) == pytest.approx(float(np.linalg.norm(norms)), rel=1e-6)

    @pytest.mark.parametrize(("dtype", "every"), [("float32", 1), ("float32", 5), ("bfloat16", 1)])
    def test_checkpointed_gradients_are_the_same(self, dtype: Dtype, every: int) -> None:
        """Through 12 blocks, with dropout and micro-batches; and the step that follows, and an evaluation."""
        config = MODELS["testbed-d"].model_copy(update={"n_layers": 12, "dropout": 0.2})
        step = StepConfig(dtype=dtype, grad_accum_steps=2, compile=self.compiles_fast)
        kept = self.build(config, step=step)
        chosen = {"gradient_checkpointing": True, "gradient_checkpointing_every": every}
        again = self.build(config, step=step.model_copy(update=chosen))
        batches, unseen = some_batches(config), some_batches(config).batch(9)
        (loss, grads), (loss_again, grads_again) = (t.gradients(batches.batch(1)) for t in (kept, again))
        assert loss == loss_again
        for key, grad in grads.items():
            np.testing.assert_allclose(grads_again[key], grad, atol=1e-6, err_msg=key)
        assert _take(kept, batches, 1, 2) == pytest.approx(_take(again, batches, 1, 2), abs=1e-6)
        assert float(kept.evaluate(unseen)) == pytest.approx(float(again.evaluate(unseen)), abs=1e-6)

    @pytest.mark.parametrize("name", ["testbed-d", "llama"])
    def test_dropout_is_repeatable_and_off_in_evaluation(self, name: str) -> None:
        """The masks follow from the seed and the step alone."""
        config = MODELS[name].model_copy(update={"dropout": 0.3})
        first, second, batches = self.build(config), self.build(config), some_batches(config)
        assert first.gradients(batches.batch(1))[0] == second.gradients(batches.batch(1))[0]
        assert first.gradients(batches.batch(1))[0] != float(first.evaluate(batches.batch(1)))
        dry = self.build(MODELS[name])
        assert float(first.evaluate(batches.batch(1))) == float(dry.evaluate(batches.batch(1)))
        _take(first, batches, 1, 3)
        second.load(first.weights(), first.optimizer_state())
        _take(first, batches, 4, 5)
        _take(second, batches, 4, 5)
        _assert_same(first.weights(), second.weights())

    def test_bfloat16_learns_what_float32_learns(self) -> None:
        """Losses agree to bfloat16's three digits; weights and state stay float32."""
        config = MODELS["testbed-d"]
        trainers = [self.build(config, step=StepConfig(dtype=dtype)) for dtype in ("float32", "bfloat16")]
        losses = [_take(trainer, some_batches(config), 1, 30) for trainer in trainers]
        assert losses[0][-1] < losses[0][0] - 0.1
        np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)
        assert all(array.dtype == np.float32 for array in trainers[1].weights().values())

    @pytest.mark.parametrize("name", MODELS)
    def test_spelled_out_kernels_are_the_fused_ones(self, name: str) -> None:
        """Logits, loss, gradients and some steps: what is fused is what is written down."""
        # With the usual eps, elements whose gradient is rounding noise would take full steps.
        config, optimizer = MODELS[name], ADAMW.model_copy(update={"eps": 1e-3})
        fused, scratch = (
            self.build(config, optimizer, StepConfig(kernels=kernels)) for kernels in ("fused", "scratch")
        )
        batch = some_batches(config).batch(1)
        np.testing.assert_allclose(scratch.logits(batch.inputs), fused.logits(batch.inputs), atol=1e-5)
        (loss, grads), (fused_loss, fused_grads) = scratch.gradients(batch), fused.gradients(batch)
        assert loss == pytest.approx(fused_loss, abs=1e-6)
        for key, grad in grads.items():
            np.testing.assert_allclose(grad, fused_grads[key], atol=2e-6, err_msg=key)
        _take(scratch, some_batches(config), 1, 3)
        _take(fused, some_batches(config), 1, 3)
        expected = fused.weights()
        for key, array in scratch.weights().items():
            np.testing.assert_allclose(array, expected[key], atol=2e-6, err_msg=key)

    def test_activation_norms_are_those_of_the_residual_stream(self) -> None:
        """One for each block; a block whose weights are 0 passes on what it gets."""
        config = MODELS["llama"]
        weights = rough_arrays(config)
        weights |= {key: np.zeros_like(a) for key, a in weights.items() if key.startswith("blocks.")}
        batch = some_batches(config).batch(1)
        rms = self.build(config, weights=weights).activation_norms(batch)
        expected = float(np.sqrt((weights["embed.weight"][batch.inputs].astype(np.float64) ** 2).mean()))
        assert rms == pytest.approx({"blocks.0": expected, "blocks.1": expected}, rel=1e-5)

    def test_compiling_changes_only_the_rounding(self) -> None:
        """Over lengths that vary: with and without compiling, and a compiled run that is resumed, to the bit."""
        config = MODELS["testbed-d"]
        step = StepConfig(compile=True, varying_length=True)
        plain, compiled, resumed = (self.build(config, KBETA, s) for s in (StepConfig(), step, step))
        batches = RandomWindows(some_batches(config).tokens, 4, LengthRule(8, 24, 8), 2)
        assert len({batches.batch(step).inputs.shape for step in range(1, 6)}) == 3
        np.testing.assert_allclose(_take(compiled, batches, 1, 5), _take(plain, batches, 1, 5), atol=1e-5)
        resumed.load(compiled.weights(), compiled.optimizer_state())
        assert _take(compiled, batches, 6, 8) == _take(resumed, batches, 6, 8)
        _assert_same(compiled.weights(), resumed.weights())
        _take(plain, batches, 6, 8)
        expected = plain.weights()
        for key, array in without_key_biases(compiled.weights()).items():
            np.testing.assert_allclose(array, expected[key], atol=2e-5, err_msg=key)


def _take(trainer: Trainer, batches: RandomWindows, first: int, last: int) -> list[float]:
    """Steps `first` to `last`; returns their losses."""
    return [float(trainer.step(batches.batch(step), 3e-3)["loss_nats"]) for step in range(first, last + 1)]


def _assert_same(ours: dict[str, NDArray[Any]], theirs: dict[str, NDArray[Any]]) -> None:
    """Equal to the bit."""
    assert ours.keys() == theirs.keys()
    for key, array in ours.items():
        assert np.asarray(array).tobytes() == np.asarray(theirs[key]).tobytes(), key
