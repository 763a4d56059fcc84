"""The page of a study: one file, small whatever was logged; curves are read in little memory."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from lm_bench.study.analysis import Question, analyzed
from lm_bench.study.configs import Described, side_by_side
from lm_bench.study.curves import MOST, Log, RunCurves, band, thinned
from lm_bench.study.figures import draw_curves
from lm_bench.study.page import study_page

from .study_results import ARMS, QUESTION, curves, result

POINTS = 50_000
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
PROBE = """<script>
const wide = [...document.querySelectorAll("body, main > *")].filter(
  e => e.getBoundingClientRect().right > innerWidth || (e.scrollWidth > e.clientWidth && !e.matches(".scroll, body")))
const missing = [...document.images].filter(i => !i.complete || !i.naturalWidth)
document.title = `${wide.length} cut, ${missing.length} of ${document.images.length} pictures missing`
</script></html>"""


def write_log(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_log_is_read_by_kind_key_and_bucket(tmp_path):
    records = [
        {"kind": "train", "step": step, "loss_nats": 4.0 - step, "beta2": {"a": 0.9, "b": 0.1 * step}}
        for step in (1, 2, 2)
    ]
    records[1]["loss_nats"] = 9.0  # a later record of the same step counts
    others = [{"kind": "resume", "step": 2}, {"kind": "eval", "step": 2, "loss_nats": 2.5, "seconds": 7.0}]
    bad = [{"kind": "train", "step": 3, "loss_nats": value} for value in (None, "x", True)]
    log = Log(write_log(tmp_path / "metrics.jsonl", records + others + bad))
    steps, losses = log.curve("train", "loss_nats")
    assert (steps.tolist(), losses.tolist()) == ([1, 2], [3.0, 2.0])
    found = RunCurves.of(log)
    assert [curve[1].tolist() for curve in found.buckets["beta2"].values()] == [[0.9, 0.9], [0.1, 0.2]]
    assert found.buckets["sunspike"] == {}
    assert (found.validation[1].tolist(), found.seconds[1].tolist()) == ([2.5], [7.0])
    assert log.keys("eval") == ["step", "loss_nats", "seconds"]


def test_a_thinned_curve_has_the_means_of_neighbours():
    steps = np.arange(1.0, 1001)
    few, means = thinned((steps, 3 * steps), 7)
    assert len(few) <= 7
    assert 3 * few == pytest.approx(means, rel=0.02), "a straight line stays one"
    assert thinned((steps, steps), 1000)[0] is steps


def test_a_band_has_the_mean_and_the_range_as_far_as_the_shortest_curve_reaches():
    long, short = (np.array([1.0, 2, 3, 4]), np.array([4.0, 3, 2, 1])), (np.array([1.0, 3]), np.array([2.0, 2]))
    found = band([long, short, (np.zeros(0), np.zeros(0))])
    assert (found.steps.tolist(), found.mean.tolist()) == ([1, 3], [3.0, 2.0])
    assert (found.low.tolist(), found.high.tolist()) == ([2.0, 2.0], [4.0, 2.0])
    assert band([]) is None


def test_what_differs_between_configs_stands_beside_what_does_not():
    differing, alike = side_by_side({"a": {"lr": 1, "eps": 2}, "b": {"lr": 3, "eps": 2, "beta2": None}})
    assert differing == [("", "a", "b"), ("lr", "1", "3"), ("beta2", "-", "None")]
    assert alike == [("eps", "2")]


def study(arms, seeds, points):
    """A study of logs of so many points."""
    noise, found, of = np.random.default_rng(0), [], {}
    question = Question("<b>A study", QUESTION.metric, arms, baseline=arms[0], target=2.0)
    for number, arm in enumerate(arms):
        found += [result(arm, 1000, 2.0 + lr, stage="tuning", point={"lr": lr}) for lr in (0.1, 0.2)]
        for seed in range(seeds):
            lost = number == 1 and seed == 0
            run = result(arm, seed, None if lost else 2.0 + number + 0.1 * noise.random())
            training = thinned((np.arange(points), 3 + noise.random(points)))[1]
            buckets = {"beta2": {f"blocks.{i}.w": (np.arange(9.0), np.full(9, 0.9)) for i in range(3)}}
            of[run.folder] = curves(4 - 0.2 * np.arange(10), buckets=buckets, training=training)
            found.append(run)
    arms_of = {arm: Described({"lr": number, "eps": 1}, None) for number, arm in enumerate(arms)}
    return study_page(question, analyzed(question, found, of), of, arms_of).decode()


def test_the_page_shows_everything_and_loads_nothing(drawn):
    page = study(ARMS, 3, 50)
    assert re.findall(r'(?:src|srcset|href)="(?!data:)', page) == []
    assert re.findall(r"url\(|@import|<script|<link", page) == []
    titles = re.findall(r"<(?:figcaption|strong|summary)>(.*?)(?: <small>|</)", page)
    assert titles == [
        "Alarms", "metrics.val_loss", "metrics.val_loss, mean over seeds, 1,000 steps, torch",
        "Paired differences less adam .95",
        "Paired differences, p corrected for 2 comparisons, less adam .95, 1,000 steps, torch",
        "Loss", "Training loss", "To a validation loss of 2.0 nats, median over seeds, 1,000 steps, torch",
        "metrics.val_loss by lr", "Tuning, 1,000 steps", *["beta2 by layer"] * 3,
        "Runs that diverged or failed, 1,000 steps, torch", "Configs: what differs",
        "Configs: 1 keys that all have alike",
    ]  # fmt: skip
    assert "&lt;b&gt;A study" in page
    assert "mathdefault" not in page


def test_a_page_without_logs_has_its_tables():
    question = QUESTION
    found = [result(arm, seed) for arm in ARMS for seed in (0, 1)]
    page = study_page(question, analyzed(question, found, {}), {}, {}).decode()
    assert "mean over seeds" in page
    assert "Loss" not in page


@pytest.mark.slow
def test_the_page_of_six_arms_of_ten_seeds_of_50_000_points_is_small(drawn, tmp_path):
    noise, arms = np.random.default_rng(0), [f"arm {number}" for number in range(6)]
    buckets = [f"blocks.{number}.weight" for number in range(12)]
    runs, of = [], {}
    for arm in arms:
        losses, spikes = 3 + noise.random(POINTS), noise.random((POINTS // 100, 12))
        records = [
            {"kind": "train", "step": step, "loss_nats": float(losses[step]), "lr": 0.1, "grad_norm": 1.0}
            | ({"beta2": dict(zip(buckets, spikes[step // 100].tolist(), strict=True))} if step % 100 == 0 else {})
            for step in range(POINTS)
        ]
        records += [{"kind": "eval", "step": step, "loss_nats": 3.0, "seconds": 1.0} for step in range(0, POINTS, 100)]
        path = write_log(tmp_path / f"{arm}.jsonl", records)
        for seed in range(10):
            run = result(arm, seed, 3 + noise.random())
            of[run.folder] = RunCurves.of(Log(path))
            runs.append(run)
    question = replace(QUESTION, arms=tuple(arms), baseline=arms[0])
    assert len(study_page(question, analyzed(question, runs, of), of, {})) < 5_000_000
    assert all(len(curves.training[0]) <= MOST for curves in of.values())


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs a browser")
@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_shows_the_page_whole(drawn, tmp_path, width):
    (tmp_path / "page.html").write_text(study(ARMS, 3, 50).replace("</html>", PROBE))
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", "--dump-dom"]
    shown = subprocess.run([*words, (tmp_path / "page.html").as_uri()], capture_output=True, text=True, timeout=300)
    assert re.search(r"<title>0 cut, 0 of [1-9]\d* pictures missing</title>", shown.stdout)


@pytest.mark.parametrize(
    ("losses", "lowest", "highest"),
    [
        ([9, 4, *[3] * 18], 3.0, 4.0),  # what is not yet trained leaves by the top
        ([9, 4, *[3] * 17, 5], 3.0, 5.0),  # an ending that is worse stays
        ([9, 4, *[3] * 17, 50], 3.0, 9.0),  # one that diverges does not
    ],
)
def test_the_axis_of_losses_shows_what_differs_at_the_end(losses, lowest, highest):
    from matplotlib.figure import Figure

    run = result()
    analysis = analyzed(QUESTION, [run], {run.folder: curves(losses)})
    axes = Figure().subplots()
    draw_curves(axes, dict(enumerate(analysis.cells)), {run.folder: curves(losses)}, "losses")
    room = 0.05 * (highest - lowest)
    assert axes.get_ylim() == pytest.approx((lowest - room, highest + room))
