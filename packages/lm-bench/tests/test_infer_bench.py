"""Decoding against Hugging Face on a tiny model: both write the same, and the report says how fast."""

import json
import sys

import pytest

from lm_bench import cli, commands
from lm_bench.flags import InferFlags
from lm_bench.infer import measurement
from lm_bench.infer import sides as infer_sides
from lm_bench.infer.measurement import Inference, Results, SameIds, compare, measure
from lm_bench.infer.report import infer_report
from lm_bench.infer.sides import Decoded
from lm_bench.infer.workload import bytes_per_id, model_of
from lm_bench.statistics import Quartiles
from lm_core.config import ModelConfig
from lm_core.errors import UserError
from lm_core.model.parameters import parameter_count

TINY = ModelConfig(vocab_size=31, seq_len=64, d_model=32, n_layers=2, n_heads=2, tie_embeddings=True, init_std=0.4)
ONES = Quartiles(1, 1, 1)


@pytest.fixture
def tiny(monkeypatch):
    """Flags under which a tiny model decodes."""
    pytest.importorskip("lm_torch")
    monkeypatch.setattr(measurement, "model_of", lambda case: TINY)
    monkeypatch.setattr("lm_bench.peak.read_bandwidth", lambda device: 1e10)
    return InferFlags(cases=("nanogpt-char",), rows=(1, 2), tokens=32, prompt_tokens=4, rounds=2, device="cpu")


def test_both_sides_write_the_same(tiny):
    pytest.importorskip("transformers")
    results = measure(tiny, lambda _: None)
    assert [(row.rows, row.side, row.ratio is None) for row in results.inference] == [
        (1, "ours", True), (1, "huggingface", False), (2, "ours", True), (2, "huggingface", False),
    ]  # fmt: skip
    assert [(row.agreeing, row.total) for row in results.same_ids] == [(32, 32), (64, 64)]
    assert all(row.distinct > 5 for row in results.same_ids)
    for row in results.inference:
        p50, p90, p99 = row.latency_ms
        assert 0 < p50 <= p90 <= p99
        assert row.prefill_ms.median > 0
        assert row.bandwidth_share > 0


def test_without_transformers_ours_is_measured_alone(tiny, monkeypatch):
    monkeypatch.setattr(infer_sides, "find_spec", lambda name: None)
    results = measure(tiny, lambda _: None)
    assert {row.side for row in results.inference} == {"ours"}
    assert results.missing == ["huggingface"]
    assert "not installed: huggingface" in infer_report(results, tiny)


def test_only_what_comes_before_the_first_difference_agrees():
    def decoded(*ids):
        return Decoded([list(row) for row in ids], 0.1, [0.1])

    same, other = decoded((1, 2, 3), (4, 5, 6)), decoded((1, 9, 3), (4, 5, 6))
    assert compare("tiny", [same, same], [same, other]) == SameIds("tiny", 2, 4, 6, 6)


def test_what_is_looked_up_is_not_read():
    whole = parameter_count(TINY)
    assert bytes_per_id(TINY, "float32") == 4 * (whole - 64 * 32)
    untied = TINY.model_copy(update={"tie_embeddings": False})
    assert bytes_per_id(untied, "bfloat16") == 2 * (whole - 64 * 32)


def test_text_and_prompt_must_fit_into_the_context():
    assert model_of("nanogpt-char").seq_len == 256
    with pytest.raises(UserError, match="the context of nanogpt-char, 256 tokens"):
        measure(InferFlags(tokens=256), lambda _: None)


RESULTS = Results(
    missing=[],
    bandwidth=2e10,
    inference=[
        Inference("tiny", 1, "ours", ONES, (1.0, 2.0, 3.0), ONES, None, 0.75),
        Inference("tiny", 1, "huggingface", ONES, (1.0, 2.0, 3.0), ONES, Quartiles(0.5, 0.6, 0.7), 0.25),
    ],
    same_ids=[SameIds("tiny", 1, 128, 128, 40)],
)


def test_the_report_says_whether_the_ids_are_the_same():
    text = infer_report(RESULTS, InferFlags())
    for words in ("p50 ms", "p99 ms", "0.600 (0.500-0.700)", "75%", "20 GB/s", "same ids: tiny, 1 row: all 128, 40"):
        assert words in text
    RESULTS.same_ids[0] = SameIds("tiny", 1, 7, 128, 40)
    assert "NOT the same ids: tiny, 1 row: 7 of 128" in infer_report(RESULTS, InferFlags())


def exit_of(monkeypatch, *argv):
    monkeypatch.setattr(sys, "argv", ["lm-bench", "infer", *argv])
    return cli.main()


@pytest.mark.parametrize(("argv", "complaint"), [(["--tokens", "1"], "tokens"), (["--row", "1"], "row")])
def test_a_wrong_flag_is_one_line(monkeypatch, capsys, argv, complaint):
    assert exit_of(monkeypatch, *argv) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert complaint in err


def test_json_is_all_there_is_on_stdout(monkeypatch, capsys):
    pytest.importorskip("lm_torch")
    monkeypatch.setattr(commands, "measure_inference", lambda flags, say: RESULTS)
    assert exit_of(monkeypatch, "--json") == 0
    assert json.loads(capsys.readouterr().out)["results"]["inference"][0]["latency_ms"] == [1.0, 2.0, 3.0]
