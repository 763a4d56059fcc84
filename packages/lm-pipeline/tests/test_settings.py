"""Settings: every one can be changed by its name, and a mistake is a line that says what it takes."""

import pytest

from lm_core.config import SamplingConfig
from lm_core.errors import UserError
from lm_pipeline.generation.settings import NAMES, Settings, changed, shown, takes


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("temperature", "0.8", {"temperature": 0.8}),
        ("top_k", "40", {"top_k": 40}),
        ("top_p", "1", {"top_p": 1.0}),
        ("seed", "7", {"seed": 7}),
        ("length", "200", {"max_new_tokens": 200}),
        ("max_new_tokens", "200", {"max_new_tokens": 200}),
        ("stop", r"end\n\\n", {"stop": ("end\n\\n",)}),
        ("stop", "", {"stop": ()}),
    ],
)
def test_one_setting_changes_and_the_others_stay(name: str, value: str, expected: dict[str, object]) -> None:
    before = Settings(min_p=0.1, stop=("before",))
    assert changed(before, name, value) == before.model_copy(update=expected)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("temperature", "hot", "temperature takes a number of at least 0, not 'hot'"),
        ("temperature", "nan", "temperature takes a number of at least 0, not 'nan'"),
        ("top_p", "0", "top_p takes a number above 0 and at most 1, not '0'"),
        ("top_k", "1.5", "top_k takes a whole number of at least 0, not '1.5'"),
        ("length", "0", "length takes a whole number above 0, not '0'"),
        ("temprature", "1", "unknown setting 'temprature'; did you mean 'temperature'?"),
        ("xyz", "1", f"unknown setting 'xyz'; there are {', '.join(NAMES)}"),
    ],
)
def test_a_mistake_is_one_line(name: str, value: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        changed(Settings(), name, value)
    assert str(error.value) == said


def test_every_setting_is_shown_and_says_what_it_takes() -> None:
    settings = Settings(stop=("\n", '"'))
    assert {name: shown(settings, name) for name in NAMES} == {
        "temperature": "1.0", "top_k": "0", "top_p": "1.0", "min_p": "0.0", "repetition_penalty": "1.0",
        "seed": "0", "length": "100", "stop": '"\\n" "\\""',
    }  # fmt: skip
    assert shown(Settings(), "stop") == "none"
    assert all(takes(name) for name in NAMES)


def test_more_than_all_ids_are_not_kept() -> None:
    assert Settings(top_k=99, temperature=2, seed=3).sampling(10) == SamplingConfig(top_k=10, temperature=2)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(UserError, match="config: stop: an empty stop string has no effect: leave it out"):
        Settings.parse({"stop": [""]})
