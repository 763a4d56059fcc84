"""Configs refuse what they do not know, say so in one line, and come back from TOML as they were."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from lm_core.config import AdamWConfig, Config, KBetaConfig, ModelConfig, SamplingConfig, ScheduleConfig, StepConfig
from lm_core.errors import UserError
from lm_core.run.loop import LoopConfig

SMALL = {"vocab_size": 7, "seq_len": 5}


class Experiment(Config):
    """A config of configs."""

    model: ModelConfig = ModelConfig(vocab_size=7, seq_len=5)
    optimizer: Annotated[AdamWConfig | KBetaConfig, Field(discriminator="name")] = AdamWConfig()
    second: ModelConfig | None = None


def refusal(cls: type[Config], values: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        cls.parse(values, "run.toml")
    message = str(caught.value)
    assert "\n" not in message
    assert "http" not in message
    return message


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (AdamWConfig, {"betta1": 0.9}, "unknown key 'betta1'; did you mean 'beta1'?"),
        (ModelConfig, SMALL | {"n_layer": 3}, "unknown key 'n_layer'; did you mean 'n_layers'?"),
        (Experiment, {"model": SMALL | {"d_modle": 8}}, "unknown key 'model.d_modle'; did you mean 'd_model'?"),
        (Experiment, {"second": SMALL | {"dropuot": 0}}, "unknown key 'second.dropuot'; did you mean 'dropout'?"),
        (Experiment, {"optimizr": {}}, "unknown key 'optimizr'; did you mean 'optimizer'?"),
        (Experiment, {"optimizer": {"name": "kbeta", "beta2_mn": 0.5}}, "did you mean 'beta2_min'?"),
        (Experiment, {"optimizer": {"name": "adamw", "bta2": 0.5}}, "did you mean 'beta2'?"),
    ],
)
def test_an_unknown_key_is_refused_with_the_key_that_was_meant(
    cls: type[Config], values: dict[str, Any], message: str
) -> None:
    assert refusal(cls, values).startswith("run.toml: ")
    assert message in refusal(cls, values)


def test_a_key_like_no_other_gets_the_list_of_known_ones() -> None:
    message = refusal(SamplingConfig, {"zzzz": 1})
    assert message == "run.toml: unknown key 'zzzz'; known keys: min_p, repetition_penalty, temperature, top_k, top_p"


@pytest.mark.parametrize(
    ("cls", "values", "words"),
    [
        (ModelConfig, SMALL | {"d_model": 10, "n_heads": 3}, ["n_heads 3", "d_model 10"]),
        (ModelConfig, SMALL | {"n_heads": 4, "n_kv_heads": 3}, ["n_kv_heads 3", "n_heads 4"]),
        (ModelConfig, SMALL | {"d_model": 12, "n_heads": 4, "positions": "rope"}, ["even", "3"]),
        (ModelConfig, SMALL | {"d_model": 9, "n_heads": 3, "positions": "sinusoidal"}, ["even d_model", "9"]),
        (ModelConfig, SMALL | {"d_model": 2, "n_heads": 1, "positions": "sinusoidal"}, ["4 or more", "2"]),
        (ModelConfig, SMALL | {"tie_embeddings": True, "head_bias": True}, ["head_bias = false"]),
        (ModelConfig, {"seq_len": 5}, ["vocab_size", "required"]),
        (KBetaConfig, {"beta2_min": 0.99, "beta2_max": 0.9}, ["beta2_min 0.99", "beta2_max 0.9"]),
        (ScheduleConfig, {"kind": "piecewise"}, ["needs points"]),
        (ScheduleConfig, {"kind": "cosine", "warmup_steps": 9, "max_steps": 9}, ["warmup_steps 9", "max_steps 9"]),
        (AdamWConfig, {"beta1": 1.0}, ["beta1", "less than 1"]),
        (AdamWConfig, {"eps": float("nan")}, ["eps", "finite"]),
        (AdamWConfig, {"weight_decay": float("inf")}, ["weight_decay", "finite"]),
        (SamplingConfig, {"top_p": 0.0}, ["top_p", "greater than 0"]),
        (LoopConfig, {"max_steps": 0}, ["max_steps", "greater than 0"]),
        (StepConfig, {"dtype": "float16"}, ["dtype", "float32", "bfloat16"]),
        (Experiment, {"model": SMALL | {"d_model": 10, "n_heads": 3}}, ["model: n_heads 3"]),
    ],
)
def test_a_value_that_cannot_be_is_refused_in_one_line_that_names_it(
    cls: type[Config], values: dict[str, Any], words: list[str]
) -> None:
    message = refusal(cls, values)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("values", [{"n_layers": True}, {"n_layers": "3"}, {"bias": "yes"}])
def test_a_value_of_another_type_is_not_converted(values: dict[str, Any]) -> None:
    assert next(iter(values)) in refusal(ModelConfig, SMALL | values)


def test_whole_numbers_are_taken_where_a_fraction_is_asked_for() -> None:
    assert AdamWConfig.parse({"weight_decay": 1}).weight_decay == 1.0


@pytest.mark.parametrize("config", [ModelConfig(**SMALL), AdamWConfig(), KBetaConfig(), LoopConfig(max_steps=1)])
def test_a_config_cannot_be_changed(config: Config) -> None:
    name = next(iter(type(config).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(config, name, getattr(config, name))


def test_the_mlp_is_four_times_as_wide_but_for_swiglu() -> None:
    assert ModelConfig(**SMALL, d_model=96).ff_dim == 384
    assert ModelConfig(**SMALL, d_model=96, mlp="swiglu").ff_dim == 256
    assert ModelConfig(**SMALL, d_model=100, mlp="swiglu").ff_dim == 320
    assert ModelConfig(**SMALL, d_ff=10, mlp="swiglu").ff_dim == 10


def test_heads_share_the_width_and_kv_heads_default_to_all_heads() -> None:
    config = ModelConfig(**SMALL, d_model=96, n_heads=6)
    assert (config.head_dim, config.kv_heads) == (16, 6)
    assert ModelConfig(**SMALL, d_model=96, n_heads=6, n_kv_heads=2).kv_heads == 2


# Round trips

rates = st.floats(0, 0.999)
positive = st.floats(1e-300, 1e300)
steps = st.integers(0, 10**12)
groups = st.lists(st.sampled_from(["matrix", "embed", "bias", "norm"]), unique=True)
models = st.builds(
    lambda heads, width, **values: ModelConfig(n_heads=heads, d_model=heads * 2 * width, **values),
    heads=st.integers(1, 8),
    width=st.integers(1, 64),
    vocab_size=st.integers(1, 2**40),
    seq_len=st.integers(1, 4096),
    d_ff=st.none() | st.integers(1, 9999),
    norm=st.sampled_from(["layer", "rms"]),
    mlp=st.sampled_from(["gelu", "gelu_tanh", "swiglu"]),
    positions=st.sampled_from(["learned", "rope", "none"]),
    norm_eps=positive,
    rope_theta=positive,
    dropout=rates,
    init_std=positive,
    bias=st.booleans(),
    tie_embeddings=st.booleans(),
)
adamws = st.builds(AdamWConfig, beta1=rates, beta2=rates, eps=positive, weight_decay=rates, decay_groups=groups)
kbetas = st.builds(
    lambda betas, **values: KBetaConfig(beta2_min=min(betas), beta2_max=max(betas), **values),
    betas=st.tuples(rates, rates),
    decay=st.none() | st.floats(0, 1),
    max_ratio=st.none() | positive,
    bias_correction=st.sampled_from(["none", "beta2max", "exact"]),
    buckets=st.sampled_from(["global", "shape", "per-array"]),
    warmup_steps=steps,
    adaptive_tiny=st.booleans(),
    decay_groups=groups,
)
points = st.dictionaries(steps, positive, min_size=1).map(lambda d: tuple(sorted(d.items())))
schedules = st.builds(ScheduleConfig, kind=st.just("piecewise"), points=points, peak_lr=positive, min_factor=rates)
loops = st.builds(LoopConfig, max_steps=st.integers(1, 10**9), save_every=steps, early_stop_min_delta=positive)
executions = st.builds(StepConfig, dtype=st.sampled_from(["float32", "bfloat16"]))
samplings = st.builds(SamplingConfig, temperature=positive, top_k=steps, top_p=st.floats(1e-9, 1), min_p=rates)


@settings(max_examples=70)
@given(st.one_of(models, adamws, kbetas, schedules, loops, executions, samplings))
def test_a_config_comes_back_from_toml_as_it_was(config: Config) -> None:
    assert type(config).parse(tomllib.loads(config.to_toml())) == config


@settings(max_examples=20)
@given(models, adamws | kbetas, st.none() | models)
def test_nested_configs_come_back_from_toml_as_they_were(
    model: ModelConfig, optimizer: AdamWConfig | KBetaConfig, second: ModelConfig | None
) -> None:
    config = Experiment(model=model, optimizer=optimizer, second=second)
    assert Experiment.parse(tomllib.loads(config.to_toml())) == config


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "cannot read {path}: No such file or directory"),
        (b"steps = \n", "{path} is not valid TOML"),
        (b"steps = 1\nsteps = 2\n", "{path} is not valid TOML"),
        (b"a = '\xff'", "{path} is not valid TOML"),
        (b"bet1 = 1", "{path}: unknown key 'bet1'; did you mean 'beta1'?"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, data: bytes | None, message: str) -> None:
    path = tmp_path / "a.toml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        AdamWConfig.load(path)
    assert str(caught.value).startswith(message.format(path=path))
    assert "\n" not in str(caught.value)


# Files that are made to hurt, or by an editor on Windows

DEEP = "{a = " * 280 + "1" + "}" * 280


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (".".join(["a"] * 100_000) + " = 1", "is not valid TOML: line 1: a key of more than 32 parts"),
        ("\n[" + ".".join(["a"] * 3000) + "]", "is not valid TOML: line 2: a key of more than 32 parts"),
        ("x = {" + " \t. ".join(['"a b"', "'c'"] * 20) + " = 1}", "a key of more than 32 parts"),
        (f"max_steps = {'9' * 5000}", "is not valid TOML: it has a number with too many digits"),
        (f"max_steps = {'9' * 4000}", "max_steps: it is beyond 9,223,372,036,854,775,807"),
        (f"max_steps = 0x{'f' * 9000}", "a value is too long, or nested too deeply"),
        (f"max_steps = {'[' * 500}{']' * 500}", "is not valid TOML: it is nested too deeply"),
        (f"max_steps = {DEEP}", "it is nested too deeply"),
    ],
    ids=lambda value: value[:12],
)
def test_a_file_without_bounds_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        LoopConfig.load(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert len(str(caught.value)) < 200 + len(str(path))


@pytest.mark.parametrize("text", ["a" * 1_000_000, "'\"" * 300_000, "." * 600_000, "a . " * 25 + "b", "\\'" * 99])
def test_a_text_that_is_no_key_is_looked_through_once(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(f"# {text}\nmax_steps = 3")
    assert LoopConfig.load(path).max_steps == 3


def test_a_byte_order_mark_is_skipped_and_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xef\xbb\xbfmax_steps = 3\r\n")
    assert LoopConfig.load(path).max_steps == 3
    path.write_bytes("max_steps = 3".encode("utf-16"))
    with pytest.raises(UserError, match="is not UTF-8 at byte 0; save it as UTF-8"):
        LoopConfig.load(path)
