"""Records that no program of ours would write, and names that are not UTF-8, end no report."""

import json
from pathlib import Path

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
