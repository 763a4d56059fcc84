"""The plan of a study: every run by its resolved config, and each mistake in one line before the first run."""

import json

import pytest

from lm_bench.study import plan
from lm_bench.study.differences import differences
from lm_bench.study.plan import filled_in, points_of
from lm_core.errors import UserError

from .study_files import BACKED, HERE, planner

pytestmark = BACKED


@pytest.fixture(autouse=True)
def _program(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))


def made(arm="A", lr=0.1, budget=4, seed=0, **changes):
    maker = planner(**changes)
    maker.check()
    return maker.trial(arm, {"lr": lr}, budget, seed, "torch", "comparison")


def test_a_hash_is_of_all_that_a_run_depends_on_and_of_nothing_else(monkeypatch):
    one = made()
    assert made().hash == made(question="Another?", alpha=0.1).hash == one.hash
    others = [made(arm="B"), made(lr=0.3), made(budget=5, budgets=[5]), made(seed=1), made(base={"best_lr": 0.2})]
    monkeypatch.setattr(plan, "code_hash", lambda packages: "another version")
    assert len({one.hash, made().hash, *(other.hash for other in others)}) == 7


@pytest.mark.parametrize(
    ("value", "filled"),
    [
        ("{lr}", 0.5),
        ("{lr*0.1}", 0.05),
        ("{steps*0.1}", 100),
        ("0:{lr},{steps*0.6}:{lr*0.5}", "0:0.5,600:0.25"),
        ("plain", "plain"),
        (3, 3),
    ],
)
def test_a_text_takes_tuned_values_and_the_budget(value, filled):
    assert filled_in(value, {"lr": 0.5, "steps": 1000}) == filled


def test_the_schedule_of_a_budget_is_its_own():
    base = {"schedule": "0:{lr},{steps*0.5}:{lr*0.1}"}
    assert 'schedule = "0:0.3,2:0.03"' in made(lr=0.3, base=base).toml
    assert 'schedule = "0:0.3,10:0.03"' in made(lr=0.3, base=base, budget=20, budgets=[20]).toml


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"app": "no_such_app"}, "app: there is no program 'no_such_app'"),
        (
            {"arms": {"A": {}, "B": {"lr": 0.3}}, "tuned": {"beta2": [0.9, 1.5]}},
            "study.toml: arms.A: --beta2: beta2: Input should be less than 1",
        ),
        ({"base": {"betta2": 0.9}}, "study.toml: arms.A: unknown key 'betta2'; did you mean 'beta2'?"),
        ({"arms": {"A": {}, "B": {"bets": 1}}}, "study.toml: arms.B: unknown key 'bets'"),
        ({"tuned": {"lrr": [1.0]}}, "unknown key 'lrr'"),
        ({"base": {"seed": 1}}, "base: 'seed' is set by the study"),
        ({"arms": {"A": {"steps": 3}, "B": {}}}, "arms.A: 'steps' is set by a budget"),
        ({"steps_key": "beta2"}, "beta2"),
        ({"arms": {"A": {"beta2": 0.8}, "B": {"beta2": 0.8}}}, "arms A and B have the same fields"),
        ({"arms": {"A": {}, "B": {"beta2": 0.9}}}, "arms A and B differ in nothing that has an effect"),
        ({"arms": {"A": {}, "B": {"schedule": "0:{lr}"}}}, "arms A and B differ in nothing that has an effect"),
        ({"metric": "metrics.val_los"}, "metric: a run's result has no 'metrics.val_los'"),
        ({"metric": "metrics.test_loss"}, "metric: no run of A has metrics.test_loss"),
        ({"base": {"evaluated": False}}, "metric: no run of A has metrics.val_loss"),
        ({"arms": {"A": {}, "B": {"spoilt": "mistake"}}}, "arms.B: --spoilt: a mistake"),
        ({"base": {"schedule": "0:{rate}"}}, "{rate}: 'rate' is neither steps nor a tuned field"),
    ],
)
def test_a_mistake_is_one_line_before_the_first_run(changes, said):
    with pytest.raises(UserError) as error:
        planner(**changes).check()
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_what_differs_beyond_the_fields_of_the_arms_is_an_alarm():
    arms = {"A": {"beta2": 0.9}, "B": {"beta2": 0.95}, "C": {"opt": "kbeta"}}
    maker = planner(arms=arms)
    found = {one.key: one for one in differences(maker.study, maker.check())}
    assert [key for key, one in found.items() if one.alarm] == ["optimizer.eps", "optimizer.bias_correction"]
    assert found["optimizer.eps"].values == {"A": 1e-8, "B": 1e-8, "C": 1e-6}
    assert "optimizer.eps differs, and no field of the arms names it: A 1e-08" in found["optimizer.eps"].line
    assert not found["optimizer.beta2"].alarm  # the arms say it
    assert found["optimizer.alpha"].values == {"C": 0.9}  # of that optimizer alone
    assert "model.d_model" not in found
    maker = planner(arms=arms, expected=["optimizer.eps", "optimizer.bias_correction"])
    assert not any(one.alarm for one in differences(maker.study, maker.check()))


def test_a_grid_is_every_combination():
    assert points_of({"a": (1, 2), "b": (3,)}) == [{"a": 1, "b": 3}, {"a": 2, "b": 3}]
    assert points_of({}) == [{}]


def test_a_trial_is_written_as_a_config_of_the_program():
    trial = made()
    assert trial.toml.splitlines() == ["beta2 = 0.9", "lr = 0.1", "steps = 4", "seed = 0", 'backend = "torch"']
    assert json.loads(json.dumps(trial.identity()))["arm"] == "A"
    assert trial.words == "A, lr 0.1, 4 steps, torch, seed 0"
