"""Records that no program of ours would write, and names that are not UTF-8, end no report."""

import json
import os
import re
from pathlib import Path

from lm_core import report
from lm_core.disk.files import optional
from lm_core.report import write_report

GOOD = {
    "kind": "train",
    "step": 1,
    "loss_nats": 1.5,
    "tokens_per_second": 1.0,
    "lr": 0.1,
    "grad_norm": 1.0,
    "seconds": 1.0,
}
NAME = "caf\udce9\x1b[2J.txt"


def test_lines_without_bounds_are_passed_over_and_names_are_shown(tmp_path: Path) -> None:
    lines = [
        json.dumps(GOOD),
        "[" * 100_000,
        json.dumps({**GOOD, "step": 10**400}),
        json.dumps({**GOOD, "step": 2, "loss_nats": 10**400}),
        json.dumps({"kind": "resume", "step": 1, "changed": {"text": ["a.txt", NAME]}, "settings": {}}),
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "\x1b" not in page
    assert r"caf\xe9\x1b[2J.txt" in page.replace("\\\\", "\\")


def test_files_without_end_are_read_with_a_bound(tmp_path: Path) -> None:
    metrics, samples = tmp_path / "metrics.jsonl", tmp_path / "samples.txt"
    metrics.write_text(json.dumps(GOOD) + "\n")
    samples.write_text("first")
    for path in (metrics, samples):
        os.truncate(path, 1 << 42)
    with samples.open("ab") as file:
        file.write(b"the last sample")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert len(page) < 8 * report.LONGEST_TEXT
    assert "the last 1,024 KiB of samples.txt" in page
    assert "the last sample" in page


def test_a_report_that_the_memory_does_not_hold_ends_nothing() -> None:
    said: list[str] = []
    with optional("report.html", said.append):
        raise MemoryError
    assert said == ["report.html not written: there is not enough memory; the run itself is saved"]


def test_further_numbers_of_the_records_have_figures_too_and_of_thousands_a_few(tmp_path: Path) -> None:
    more = {"pass_at_1": 0.5, "rewards": {"correct": 1.0, "format": 0.5}, "remark": "none"}
    many = {f"<i>{i}": i for i in range(999)}
    captions = []
    for values in (more, many):
        (tmp_path / "metrics.jsonl").write_text(json.dumps({**GOOD, **values}) + "\n")
        page = write_report(tmp_path).read_text(encoding="utf-8")
        captions.append(re.findall(r"<figcaption>(.*?) *<small>", page))
        assert "<i>" not in page
    assert captions[0][-2:] == ["Pass at 1", "Rewards"]
    assert len(captions[1]) < 40
