"""The tables of docs/optimizers.md are those of the files beside it, and one more file is one more row."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from lm_bench.study.paired import paired
from lm_core.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]
STUDY = """
name = "optimizers"
question = "Which optimizer is best?"
app = "train"
smallest_effect = 0.01
baseline = "adamw"
budgets = [10]
seeds = 3
[tuned]
lr = [0.1, 0.2, 0.3]
[variants.tiny]
d_model = 8
[arms.adamw]
"optimizer.name" = "adamw"
[arms.muon]
"optimizer.name" = "muon"
"""
HEADER = "arm,lr,budget,stage,backend,seed,status,metrics.val_loss,steps_done,seconds,peak_bytes,config_hash,message"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("leaderboard", REPOSITORY / "tools" / "leaderboard.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with one variant and the baseline's entry."""
    for folder in ("configs", "docs/optimizers/tiny"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "configs" / "study_optimizers.toml").write_text(STUDY)
    (tmp_path / "docs" / "optimizers.md").write_text("before\n<!-- tables -->\nold\n<!-- end of tables -->\nafter\n")
    entry(tmp_path, "adamw", adamw=[3.0, 3.2, 3.1])
    return tmp_path


def entry(root: Path, name: str, **arms: list[float | None]) -> None:
    """The results.csv of a study of these arms, with their losses by seed; None is a run that diverged."""
    lines = [HEADER]
    for arm, losses in arms.items():
        lines += [row(arm, lr).rstrip() for lr in (0.1, 0.2, 0.3)]
        for seed, loss in enumerate(losses):
            status = "diverged" if loss is None else "complete"
            metric = "" if loss is None else loss
            lines.append(f"{arm},0.2,10,comparison,torch,{seed},{status},{metric},10,1.0,,{arm}{seed},")
    (root / "docs" / "optimizers" / "tiny" / f"{name}.csv").write_text("\n".join(lines) + "\n")


def row(arm: str, lr: float) -> str:
    """Of its tuning."""
    return f"{arm},{lr},10,tuning,torch,1000,complete,{9 + abs(lr - 0.2)},10,1.0,,hash,\n"


def rows(page: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]


def test_the_page_is_what_its_files_say(tool: ModuleType) -> None:
    assert (REPOSITORY / tool.PAGE).read_text(encoding="utf-8") == tool.page(REPOSITORY)


def test_one_file_is_one_row_beside_the_baseline_of_the_same_file(tool: ModuleType, root: Path) -> None:
    entry(root, "muon", muon=[2.5, 2.7, 2.6], adamw=[3.5, 3.5, 3.7], other=[0.0, 0.0, 0.0])
    entry(root, "lion", lion=[2.9, None, 3.9], adamw=[3.0, 3.2, 3.1])
    page = tool.page(root)
    assert page.startswith("before\n<!-- tables -->\n### tiny: 10 steps, torch\n")
    assert page.endswith("<!-- end of tables -->\nafter\n")
    header, _, muon, adamw, lion = rows(page)
    assert muon[:3] == ["1", "muon", "2.6000"]
    assert muon[header.index("less the baseline")] == "-0.9667", "not less the baseline of another machine"
    assert muon[header.index("at")] == "lr 0.2"
    assert adamw[:3] == ["2", "adamw", "3.1000"]
    assert adamw[header.index("less the baseline")] == "-"
    assert (lion[0], lion[header.index("lost")], lion[header.index("runs")]) == ("3", "1", "3")


def test_p_is_corrected_over_all_rows_and_a_rate_at_the_edge_is_marked(tool: ModuleType, root: Path) -> None:
    differences = [-0.5, -0.4, -0.6]
    entry(root, "muon", muon=[3.0 + one for one in differences], adamw=[3.0, 3.0, 3.0])
    header, _, muon, _ = rows(tool.page(root))
    alone = float(muon[header.index("p")])
    assert alone == pytest.approx(paired(differences).t_p, abs=5e-5)
    entry(root, "lion", lion=[3.1, 2.9, 3.0], adamw=[3.0, 3.0, 3.0])
    path = root / "docs" / "optimizers" / "tiny" / "muon.csv"
    path.write_text(path.read_text().replace("muon,0.2,10", "muon,0.4,10"))
    _, _, muon, *_ = rows(tool.page(root))
    assert float(muon[header.index("p")]) == pytest.approx(2 * alone, abs=1e-4)
    assert muon[header.index("at")] == "lr 0.4 (at the edge of its grid)"


def test_a_folder_that_is_not_of_a_variant_is_named(tool: ModuleType, root: Path) -> None:
    (root / "docs" / "optimizers" / "other").mkdir()
    with pytest.raises(UserError, match="other: the study has tiny"):
        tool.page(root)


def test_a_page_without_entries_says_so(tool: ModuleType, root: Path) -> None:
    (root / "docs" / "optimizers" / "tiny" / "adamw.csv").unlink()
    assert "<!-- tables -->\nNot measured.\n<!-- end" in tool.page(root)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("config_hash", "hash"), "it has no column config_hash"),
        (lambda text: text.replace("muon,", "moun,"), "it has no run of muon"),
        (lambda text: text.replace("adamw,", "adam,"), "it has no run of adamw"),
        (lambda text: text.replace(",2.5,", ",x,"), "line 5: could not convert"),
        (lambda text: text.replace("torch,2,", "torch,3,"), r"10 steps: it has the seeds \[0, 1, 3\], and the study"),
        (lambda text: text.replace("0.2,10,comparison", "0.2,20,comparison"), r"10 steps: it has the seeds \[\]"),
        (
            lambda text: text + text.partition("\n")[2].replace(",10,", ",40,"),
            r"40 steps.* seeds \[0, 1, 2\]",
        ),
        (
            lambda text: text.replace("tuning,torch,1000", "tuning,torch,1001"),
            r"the seeds \[1001, 1001, 1001\], and the",
        ),
        (lambda text: text.replace(row("muon", 0.1), ""), "its grid has 2 points, and the study's has 3"),
        (lambda text: text + "".join(row("muon", n) for n in range(4, 8)), "its grid has 7 points, and the study's"),
        (lambda text: text.replace("muon,0.2,10,comp", "muon,0.3,10,comp"), "at lr 0.3, which is not the best"),
        (lambda text: text[: text.index("\n") + 20], "line 2: "),
    ],
)
def test_a_bad_entry_is_named(tool: ModuleType, root: Path, change, said: str) -> None:  # type: ignore[no-untyped-def]
    entry(root, "muon", muon=[2.5, 2.7, 2.6], adamw=[3.5, 3.5, 3.4])
    path = root / "docs" / "optimizers" / "tiny" / "muon.csv"
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=rf"muon\.csv.*{said}"):
        tool.page(root)
