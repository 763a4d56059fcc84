"""Conformance of a backend's decoder, as a pytest class."""

import numpy as np
import pytest
from numpy.typing import NDArray

from lm_core.backend import load_backend
from lm_core.config import ModelConfig, SamplingConfig, StepConfig
from lm_core.data.batches import Batch
from lm_core.rng import generator
from lm_core.sampling import Generation, filtered, generate, uniform
from lm_core.testing.base import Conformance
from lm_core.testing.models import MODELS, rough_arrays


class DecoderConformance(Conformance):
    """A decoder against full passes, the reference of the filter, and itself."""

    @pytest.mark.parametrize("name", MODELS)
    def test_the_cache_gives_the_logits_of_a_whole_pass(self, name: str) -> None:
        """Ids drawn through the cache are those drawn from full logits, prefix by prefix."""
        config = MODELS[name]
        sampling = SamplingConfig(temperature=0.9, top_k=12, top_p=0.9, min_p=0.02, repetition_penalty=1.2)
        trainer, ids = self.build(config), [3, 1, 4]
        drawn = list(generate(trainer.decoder(), ids, 20, config.seq_len, 5, sampling))
        for position, chosen in enumerate(drawn):
            probabilities = filtered(trainer.logits(np.array([ids]))[0, -1], sampling, set(ids))
            order = np.argsort(-probabilities, kind="stable")
            cumulated = np.cumsum(probabilities[order])
            assert chosen == order[int((cumulated <= uniform(5, position)).sum())], f"position {position}"
            ids.append(chosen)

    @pytest.mark.parametrize("name", MODELS)
    def test_rows_together_are_rows_alone(self, name: str) -> None:
        """Prompts of several lengths as one batch, past the window, one of them ended early."""
        config = MODELS[name]
        trainer, prompts = self.build(config), [[3, 1, 4], [1], [5, 9, 2, 6, 5, 3, 5, 8, 9], [7, 7]]
        sampling = SamplingConfig(temperature=0.8, top_p=0.95, repetition_penalty=1.1)
        generation = Generation(trainer.decoder(len(prompts)), prompts, config.seq_len, 3, sampling)
        for position in range(40):
            if position == 7:
                generation.end({1})
            assert list(generation.step()) == generation.active
        for row, prompt in enumerate(prompts):
            alone = generate(trainer.decoder(), prompt, 7 if row == 1 else 40, config.seq_len, 3 + row, sampling)
            assert generation.ids[row] == [*prompt, *alone], row

    def test_several_ids_a_call_are_those_one_by_one(self) -> None:
        """Two rows, past the window, one of them ended within a call."""
        config, texts = MODELS["llama"], []
        trainer = self.build(config)
        for ids_per_call in (1, 5):
            decoder = trainer.decoder(2)
            decoder.ids_per_call = ids_per_call
            generation = Generation(decoder, [[3, 1, 4], [1]], config.seq_len, 3, SamplingConfig(top_p=0.9))
            for position in range(30):
                generation.end({1} if position == 12 else set())
                generation.step()
            texts.append(generation.ids)
        assert texts[0] == texts[1]

    def test_rows_that_are_kept_several_times_continue_as_if_each_had_read_the_prompt(self) -> None:
        """One prompt is read once for several texts, which are drawn apart from there on; rows are then let go."""
        config, sampling = MODELS["llama"], SamplingConfig()
        trainer, prompts, rows = self.build(config), [[3, 1, 4], [1, 5]], [0, 0, 1, 1, 1]
        decoder, draw = trainer.decoder(len(rows)), generator(0, "kept")
        for row, prompt in enumerate(prompts):
            decoder.prefill(row, prompt, ())
        decoder.keep(rows)
        plain = trainer.decoder(len(rows))
        for row, which in enumerate(rows):
            plain.prefill(row, prompts[which], ())
        for position in range(12):
            if position == 5:
                for either in (decoder, plain):
                    either.keep([1, 2, 4])
            uniforms = [draw.random(5 if position < 5 else 3).tolist()]
            assert decoder.next_ids(uniforms, sampling) == plain.next_ids(uniforms, sampling)

    def test_what_it_draws_has_the_nats_that_score_gives(self) -> None:
        """In float32 to 1e-5: rows of several lengths, with a filter that is no part of them."""
        config, hot = MODELS["testbed-d"], SamplingConfig(temperature=3.0, top_p=0.99)
        trainer, prompts, draw = self.build(config), [[3, 1, 4], [1], [5, 9, 2, 6, 5]], generator(0, "nats")
        decoder, texts, nats = trainer.decoder(3), [list(prompt) for prompt in prompts], []
        for row, prompt in enumerate(prompts):
            decoder.prefill(row, prompt, ())
        for _ in range(18):
            [drawn] = decoder.next_ids([draw.random(3).tolist()], hot)
            nats.append(decoder.last_nats())
            for text, chosen in zip(texts, drawn, strict=True):
                text.append(chosen)
        for row, text in enumerate(texts):
            ids = np.array([text], np.int32)
            scored = trainer.score(Batch(ids[:, :-1], ids[:, 1:]))[0, -18:]
            np.testing.assert_allclose(np.array(nats)[:, row], scored, atol=1e-5, rtol=0)

    def test_limits_that_meet_a_probability_are_the_reference_s(self) -> None:
        """Logits whose sums meet top-p and min-p but for rounding, many alike: the ids kept are the reference's."""
        config = ModelConfig(vocab_size=12, seq_len=4, d_model=2, n_layers=1, n_heads=1, head_bias=True)
        weights = {name: np.zeros_like(array) for name, array in rough_arrays(config).items()}
        decide = generator(0, "limits")
        for case in range(60):
            logits = np.log(decide.integers(1, 8, 12)).astype(np.float32)
            p = np.exp(logits.astype(np.float64))
            p /= p.sum()
            limit = float(np.sort(p)[::-1].cumsum()[decide.integers(0, 11)])
            sampling = [
                SamplingConfig(top_p=float(np.float32(limit))),
                SamplingConfig(top_p=float(decide.choice([1e-3, 1e-30, 1e-300]))),
                SamplingConfig(min_p=float(np.float32(p[decide.integers(0, 12)] / p.max()))),
                SamplingConfig(top_p=limit, top_k=11, temperature=1.5, min_p=0.3),
            ][case % 4]
            expected = filtered(logits, sampling)
            order = np.argsort(-expected, kind="stable")[: np.count_nonzero(expected)]
            middles = expected[order].cumsum() - expected[order] / 2
            trainer = self.build(config, weights=weights | {"lm_head.bias": logits})
            decoder = trainer.decoder(len(order) + 1)
            for row in range(len(order) + 1):
                decoder.prefill(row, [0], ())
            assert decoder.next_ids([[*middles, 1 - 2**-53]], sampling) == [[*order, order[-1]]], sampling

    def test_only_ids_of_the_tokenizer_are_drawn(self) -> None:
        """A vocabulary that was padded for speed has ids that stand for nothing."""
        config = MODELS["bare"]
        trainer = self.build(config)
        hot = SamplingConfig(temperature=50.0)
        assert max(generate(trainer.decoder(), [1], 100, config.seq_len, 0, hot)) > 20
        assert max(generate(trainer.decoder(1, 20), [1], 100, config.seq_len, 0, hot)) < 20

    def test_a_decoder_without_a_trainer_draws_the_same(self) -> None:
        """`Backend.decoder` needs the weights alone."""
        config = MODELS["llama"]
        step = StepConfig(device="cpu")
        decoder = load_backend(self.backend_name).decoder(config, step, rough_arrays(config))
        both = (generate(d, [1, 2], 30, 24, 0, SamplingConfig()) for d in (decoder, self.build(config).decoder()))
        first, second = (list(ids) for ids in both)
        assert first == second

    @pytest.mark.parametrize("width", [16, 64])
    def test_int8_weights_are_rounded_by_a_scale_for_each_output(self, width: int) -> None:
        """An int8 decoder draws what a plain one draws from the matrices so rounded (numpy is the oracle).

        Its logits are within 4% of those of the weights as they were, relative to their norm.
        """
        config = MODELS["testbed-d"].model_copy(update={"d_model": width})
        weights, backend = rough_arrays(config), load_backend(self.backend_name)
        rounded = {
            name: _rounded(array) if array.ndim == 2 and "embed" not in name else array
            for name, array in weights.items()
        }
        step = StepConfig(device="cpu")
        decoders = [
            backend.decoder(config, step.model_copy(update={"weights_dtype": kind}), arrays)
            for kind, arrays in (("int8", weights), ("same", rounded), ("same", weights))
        ]
        drawn = [list(generate(d, [1, 2], 30, 24, 0, SamplingConfig())) for d in decoders[:2]]
        assert drawn[0] == drawn[1]
        for decoder in decoders:
            decoder.prefill(0, [1, 2, 3, 4], ())
        int8, as_rounded, as_were = (np.array(getattr(d, "logits").tolist()[0]) for d in decoders)  # noqa: B009
        np.testing.assert_allclose(int8, as_rounded, atol=5e-6)
        assert 0 < np.linalg.norm(int8 - as_were) <= 0.04 * np.linalg.norm(as_were)

    def test_text_goes_on_past_the_model_s_window(self) -> None:
        """Sixty ids from a model of 24 positions, the same twice."""
        config = MODELS["testbed-d"]
        trainer = self.build(config)
        first, second = (list(generate(trainer.decoder(), [1], 60, 24, 0, SamplingConfig())) for _ in range(2))
        assert first == second
        assert len(first) == 60


def _rounded(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """[out, in], each row rounded to the 255 multiples of its largest element over 127."""
    scales = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
    rounded: NDArray[np.float32] = (np.round(weight / scales) * scales).astype(np.float32)
    return rounded
