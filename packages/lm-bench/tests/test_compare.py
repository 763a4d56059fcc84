"""`lm-bench compare`: runs of equal configs are one group; means, intervals and curves are those of their records."""

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lm_bench import cli
from lm_core.run.checkpoint import Checkpoints


def write_run(folder, config, validation, training=(), **last):
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(config)
    records = [{"kind": "train", "step": step, "loss_nats": loss, **last} for step, loss in training]
    records += [{"kind": "eval", "step": step, "loss_nats": loss, **last} for step, loss in validation]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three seeds of one config, one run of another."""
    monkeypatch.chdir(tmp_path)
    for seed, end in enumerate((2.0, 2.2, 2.7)):
        config = f'seed = {seed}\nsave_dir = "s{seed}"\n[optimizer]\nname = "adamw"\n[logging]\nrun_name = "r{seed}"\n'
        write_run(
            Path(f"runs/a{seed}"), config, [(1, 4.0), (10, end)], [(1, 4.1), (5, 3.0)], seconds=5.0,
            tokens_per_second=100.0, bits_per_byte=end / 2,
        )  # fmt: skip
    write_run(Path("runs/muon"), 'seed = 0\n[optimizer]\nname = "muon"\n', [(1, 4.0), (10, 1.5)])
    return tmp_path


@pytest.fixture
def compare(monkeypatch, capsys):
    """Runs the command; returns its exit code and what it printed."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["lm-bench", "compare", *map(str, words)])
        code = cli.main()
        return (code, *capsys.readouterr())

    return call


def test_a_config_toml_that_was_edited_makes_no_group(runs, compare):
    array = {"w": np.zeros(2, np.float32)}
    for name, number in (("a0", "adamw"), ("muon", "muon")):
        facts = {"step": 10, "val_loss": 1.0, "config": {"seed": 0, "optimizer": {"name": number}}}
        Checkpoints(Path("runs", name, "checkpoints")).save(array, array, facts)
        Path("runs", name, "config.toml").write_text("seed = 0\n")
    code, out, _ = compare("runs/a0", "runs/muon", "--json", "--out", "")
    assert code == 0
    assert len(json.loads(out)["groups"]) == 2


def test_runs_of_equal_configs_are_a_group_with_mean_and_spread_the_best_first(runs, compare):
    code, out, _ = compare("runs", "--json", "--out", "")
    assert code == 0
    found = json.loads(out)
    muon, adamw = found["groups"]
    assert muon["group"] == "optimizer.name muon"
    assert adamw["group"] == "optimizer.name adamw"
    ends = [2.0, 2.2, 2.7]
    assert [run["last_loss_nats"] for run in adamw["runs"]] == ends
    last = adamw["last_loss_nats"]
    assert (last["n"], last["mean"], last["deviation"]) == (
        3, pytest.approx(statistics.mean(ends)), pytest.approx(statistics.stdev(ends)),
    )  # fmt: skip
    assert muon["last_loss_nats"]["deviation"] is None
    [difference] = found["differences"]
    assert (difference["group"], difference["less"]) == (muon["group"], adamw["group"]), "that of the first run"
    assert difference["difference"]["mean"] == pytest.approx(1.5 - 2.0), "on the seed that both have"
    assert not list(runs.glob("compare.*"))


def test_groups_of_too_many_differences_are_told_apart_by_their_places(tmp_path, monkeypatch, compare):
    """As of --seeds with one optimizer, then with another: seed-0 is a name in both folders."""
    monkeypatch.chdir(tmp_path)
    for optimizer, end in (("adamw", 2.0), ("muon", 1.5)):
        more = "\n".join(f"{key} = '{optimizer}'" for key in "abcd")
        for seed in (0, 1):
            config = f'seed = {seed}\n[optimizer]\nname = "{optimizer}"\n{more}\n'
            write_run(Path(f"runs/{optimizer}/seed-{seed}"), config, [(10, end + seed)])
    Path("runs/muon/seed-0/result.json").write_text("{}")
    code, out, _ = compare("runs/adamw", "runs/muon", "--json", "--out", "")
    assert code == 0
    found = json.loads(out)
    assert [(one["group"], one["last_loss_nats"]["n"]) for one in found["groups"]] == [("muon", 2), ("adamw", 2)]
    [cut] = [line for line in found["alarms"] if "not complete" in line]
    assert cut.endswith("they have: runs/muon/seed-1, runs/adamw/seed-0, runs/adamw/seed-1")
    code, out, _ = compare("runs/muon/seed-0", "runs/adamw/seed-0", "--json", "--out", "")
    assert [one["group"] for one in json.loads(out)["groups"]] == ["muon/seed-0", "adamw/seed-0"]


def test_the_table_names_groups_runs_seeds_and_units(runs, compare):
    code, out, _ = compare("runs/a0", "runs/a1", "runs/muon", "runs/a1", "--out", "")
    assert code == 0
    notes, groups, differences, each = out.split("\n\n")
    assert "one seed only, so there is no interval: optimizer.name muon" in notes
    assert [line.split("  ")[0] for line in groups.splitlines()[1:]] == [
        "arm", "optimizer.name muon", "optimizer.name adamw",
    ]  # fmt: skip
    assert re.search(r"adamw  2\.1000 .* 0\.1414", groups)
    assert "less optimizer.name adamw" in differences
    assert [line.split()[0] for line in each.splitlines()] == ["run", "runs/muon", "runs/a0", "runs/a1"]
    assert "bits_per_byte" in each.splitlines()[0]


def test_the_page_holds_its_pictures_and_loads_nothing(runs, compare):
    code, _, err = compare("runs")
    assert code == 0
    assert "curves: compare.html" in err
    page = Path("compare.html").read_text()
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert "optimizer.name muon" in page
    assert "<td>2.3000</td>" in page
    compare("runs", "--out", "again/compare.html")
    assert Path("again/compare.html").read_text() == page, "the same runs give the same bytes"


def test_the_way_to_a_target_is_compared_where_one_is_given(runs, compare):
    out = compare("runs", "--target", "3.5", "--out", "")[1]
    assert "To a validation loss of 3.5 nats" in out
    assert re.search(r"adamw +10 ", out)


def test_runs_that_end_at_different_steps_are_an_alarm(runs, compare):
    write_run(Path("runs/short"), 'seed = 1\n[optimizer]\nname = "muon"\n', [(1, 4.0), (7, 1.6)])
    assert "ALARM: the runs end at different steps: 7, 10" in compare("runs", "--out", "")[1]


def test_a_png_is_one(runs, compare):
    assert compare("runs", "--out", "x.png")[0] == 0
    assert Path("x.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_names_and_labels_from_a_config_are_shown_and_not_obeyed(tmp_path, compare, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x", "y"):
        write_run(Path(f"r/{name}\x1b[2J<b>"), f'a = "{name}\\u001b[2J<i>"\n', [(1, 1.0)])
    code, out, _ = compare("r")
    assert code == 0
    assert "\x1b" not in out
    page = Path("compare.html").read_text()
    assert "\x1b" not in page
    assert "<b>" not in page
    assert "<i>" not in page


def test_runs_of_other_programs_are_called_by_their_folders(tmp_path, compare, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(Path("r/one"), "".join(f"a{i} = 1\n" for i in range(9)), [(1, 1.0)])
    write_run(Path("r/two"), "".join(f"b{i} = 1\n" for i in range(9)), [], [(1, 2.0)])
    _, out, _ = compare("r", "--out", "")
    assert [line.split()[0] for line in out.split("\n\n")[1].splitlines()[1:]] == ["arm", "one", "two"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no run folder given"),
        (["none"], "there is no folder none"),
        (["runs", "--out", "x.pdf"], "--out x.pdf: its name ends in .html or .png"),
        (["empty"], "no run has any losses to compare"),
    ],
)
def test_a_mistake_is_one_line(runs, compare, words, said):
    write_run(Path("empty"), "", [])
    code, out, err = compare(*words)
    assert (code, out) == (2, "")
    assert said in err


def test_records_that_hold_no_numbers_are_passed_over(tmp_path, compare, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad = [(2, None), (3, "x"), (4, float("nan")), (5, 10**400), (6, True)]
    write_run(Path("r/x"), "", [(1, 1.5), *bad], bits_per_byte="y", seconds=10**400)
    code, out, _ = compare("r", "--out", "")
    assert code == 0
    assert out.split("\n\n")[-1].splitlines()[1].split()[-2:] == ["1.5000", "1.5000"]


def test_no_framework_is_loaded():
    code = (
        "import sys, lm_bench.compare.groups, lm_bench.compare.report, lm_bench.compare.runs;"
        " print({'torch', 'mlx', 'transformers'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
