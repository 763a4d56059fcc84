"""docs/scale.md: its tables are those of `lm-bench scale`, and its scripts are scripts."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lm_bench.flags import ScaleFlags
from lm_bench.scale.report import Table, tables

DOCUMENT = (Path(__file__).resolve().parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")
TABLES = tables(ScaleFlags())


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.caption)
def test_the_document_has_the_tables_that_the_command_prints(table: Table) -> None:
    assert str(table) in DOCUMENT, "print it by: uv run lm-bench scale"


def test_the_scripts_for_slurm_are_scripts() -> None:
    bash = shutil.which("bash")
    if not bash:
        pytest.skip("bash is not installed")
    scripts = re.findall(r"```bash\n(.*?)```", DOCUMENT, re.DOTALL)
    assert scripts
    for script in scripts:
        found = subprocess.run([bash, "-n"], input=script, capture_output=True, text=True, check=False)
        assert (found.returncode, found.stderr) == (0, "")
