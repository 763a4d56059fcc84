"""What a sweep's parameters may be, against W&B's own definitions (github.com/wandb/sweeps, params.py)."""

import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_core.errors import UserError
from lm_pipeline.trials.config import SweepFile, trials_of
from lm_pipeline.trials.distributions import Parameter
from lm_pipeline.trials.yaml_file import read_yaml

E = math.e
UNIFORMS = [0.0, 0.1, 0.25, 0.5, 0.75, 0.999]


def parameter(**keys: Any) -> Parameter:
    return Parameter.model_validate(keys)


def of(distribution: str, **keys: Any) -> Parameter:
    return parameter(distribution=distribution, **keys)


def normal(uniform: float) -> float:
    return NormalDist(2, 3).inv_cdf(uniform)


@pytest.mark.parametrize(
    ("given", "quantile"),
    [
        (of("constant", value="x"), lambda _: "x"),
        (of("int_uniform", min=1, max=4), lambda u: 1 + int(4 * u)),
        (of("uniform", min=1, max=4), lambda u: 1 + 3 * u),
        (parameter(min=0.0, max=1.0), lambda u: u),
        (parameter(min=0, max=1.0), lambda u: u),
        (parameter(min=0, max=1), lambda u: int(2 * u)),
        (of("q_uniform", min=0, max=10), lambda u: round(10 * u)),
        (of("q_uniform", min=0, max=1, q=0.25), lambda u: round(u / 0.25) * 0.25),
        (of("q_uniform", min=0, max=512, q=64), lambda u: round(512 * u / 64) * 64),
        (of("log_uniform", min=-9, max=-2), lambda u: E ** (-9 + 7 * u)),
        (of("log_uniform_values", min=1e-4, max=1e-2), lambda u: 1e-4 * 100**u),
        (of("inv_log_uniform", min=1, max=3), lambda u: 1 / E ** (3 - 2 * u)),
        (of("inv_log_uniform_values", min=1e-4, max=1e-2), lambda u: 1e-4 * 100**u),
        (of("q_log_uniform", min=1, max=5, q=8), lambda u: round(E ** (1 + 4 * u) / 8) * 8),
        (of("q_log_uniform_values", min=8, max=512, q=8), lambda u: round(8 * 64**u / 8) * 8),
        (of("normal", mu=2, sigma=3), lambda u: normal(max(u, 2**-54))),
        (of("q_normal", mu=2, sigma=3, q=0.5), lambda u: round(normal(max(u, 2**-54)) / 0.5) * 0.5),
        (of("log_normal", mu=2, sigma=3), lambda u: E ** normal(max(u, 2**-54))),
        (of("q_log_normal", mu=2, sigma=3), lambda u: round(E ** normal(max(u, 2**-54)))),
        (of("normal"), lambda u: NormalDist().inv_cdf(max(u, 2**-54))),
        (parameter(values=["a", "b", "c"]), lambda u: "abc"[int(3 * u)]),
        (parameter(values=["a", None], probabilities=[0.2, 0.8]), lambda u: "a" if u < 0.2 else None),
    ],
    ids=lambda value: value.kind if isinstance(value, Parameter) else "",
)
def test_a_draw_is_the_quantile_of_the_distribution(given: Parameter, quantile: Any) -> None:
    for uniform in UNIFORMS:
        expected, drawn = quantile(uniform), given.draw(uniform)
        assert drawn == (pytest.approx(expected, rel=1e-5) if isinstance(expected, float) else expected)
        assert isinstance(drawn, int) or not isinstance(expected, int)


@given(low=st.floats(-5, 5), width=st.floats(0, 5), uniform=st.floats(0, 1, exclude_max=True))
def test_a_range_with_a_point_is_never_whole_numbers(low: float, width: float, uniform: float) -> None:
    drawn = parameter(min=low, max=low + width).draw(uniform)
    assert isinstance(drawn, float)
    assert low - 1e-4 <= drawn <= low + width + 1e-4


def grid(**parameters: Any) -> list[tuple[Any, ...]]:
    sweep = SweepFile.model_validate({"method": "grid", "parameters": parameters})
    return [tuple(trial.values.values()) for trial in trials_of(sweep, 0, 0)]


def test_a_grid_takes_whole_numbers_steps_nested_parameters_and_null() -> None:
    assert grid(seed={"min": 1, "max": 3}) == [(1,), (2,), (3,)]
    steps = {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.25}
    assert grid(a=steps) == [(0,), (0.25,), (0.5,), (0.75,)]
    nested = {"parameters": {"d_ff": {"values": [None, 64]}, "inner": {"parameters": {"x": {"value": True}}}}}
    sweep = SweepFile.model_validate({"method": "grid", "parameters": {"model": nested}})
    assert [trial.words for trial in trials_of(sweep, 0, 0)] == [
        ("--model.d_ff", "None", "--model.inner.x"),
        ("--model.d_ff", "64", "--model.inner.x"),
    ]
    assert grid(a={"values": [1, 1.0, True, "x", 1]}) == [(1,), (True,), ("x",)]
    assert grid(a={"value": "-x"})[0] == ("-x",)


def test_a_grid_beyond_all_bounds_is_made_as_far_as_it_is_wanted() -> None:
    huge = {f"p{i}": {"min": 0, "max": 10**15} for i in range(5)}
    sweep = SweepFile.model_validate({"method": "grid", "parameters": huge})
    assert [list(trial.values.values()) for trial in trials_of(sweep, 3, 0)] == [[0, 0, 0, 0, i] for i in range(3)]
    with pytest.raises(UserError, match="at most 1,000 are run"):
        trials_of(sweep, 0, 0)
    drawn = SweepFile.model_validate({"method": "random", "parameters": huge})
    with pytest.raises(UserError, match=r"has 1,000,000,000 trials"):
        trials_of(drawn, 10**9, 0)


def test_the_flags_of_every_trial_come_from_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED", "7")
    command = ["${env}", "python", "${program}", "--config", "a.toml", "--seed=${envvar:SEED}", 3, "${args_no_hyphens}"]
    sweep = SweepFile.model_validate({"method": "grid", "command": command, "parameters": {"a": {"value": 1}}})
    assert sweep.fixed_words() == ["--config", "a.toml", "--seed=7", "3"]


def test_what_is_easily_mistaken_is_noted() -> None:
    rate = {"distribution": "log_uniform", "min": 1e-5, "max": 1e-1}
    sweep = SweepFile.model_validate(
        {"method": "random", "early_terminate": {"type": "hyperband"}, "parameters": {"schedule.peak_lr": rate}}
    )
    stop, log = sweep.notes()
    assert "every trial runs to its end" in stop
    assert "draws from e^min to e^max, 1 to 1.105; log_uniform_values takes the values themselves" in log


# YAML


def read(text: str | bytes, tmp_path: Path) -> Any:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_yaml(str(path))


def test_aliases_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    assert read("a: &a {b: 1}\nc: {<<: *a, d: 2}\n", tmp_path) == {"a": {"b": 1}, "c": {"b": 1, "d": 2}}
    assert read(b"\xef\xbb\xbfa: 1\n", tmp_path) == {"a": 1}
    assert read("", tmp_path) is None


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 30))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "its aliases expand to more than 100,000 values"),
        (MERGES, "its aliases expand to more than 100,000 values"),
        ("a: &a [*a]", "line 1: an alias refers to a node that contains it"),
        ("[" * 5000, "nested too deeply"),
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' is given twice"),
        (f"a: {'9' * 5000}", "is not valid YAML"),
        ("a: 2024-13-45", "is not valid YAML"),
        ("a: [", "is not valid YAML"),
        (b"\xff\xfea", "is not UTF-8 at byte 0"),
        ("x" * 300_000, "it has more than 262,144 bytes"),
    ],
    ids=lambda value: value[:10],
)
def test_a_file_that_is_made_to_grow_is_one_line(text: str | bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        read(text, tmp_path)
