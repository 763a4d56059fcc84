"""The comparison as text, as JSON, and as one file: the page of a study, or its curves as PNG."""

import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lm_bench.compare.groups import Group
from lm_bench.study.analysis import Analysis, Question, analyzed
from lm_bench.study.estimate import Estimate
from lm_bench.study.figures import draw_curves
from lm_bench.study.page import study_page
from lm_bench.study.summary import Table, study_text
from lm_core.disk.files import write_whole
from lm_core.errors import UserError
from lm_core.page import STYLE
from lm_core.run.folder import RunFolder
from lm_core.terminal import aligned, show

SUFFIXES = (".html", ".png")
_INCHES = (9.6, 3.4)


class Comparison:
    """Groups of runs, analyzed.

    Args:
        groups: in the order in which they are shown.
        baseline: label of the group that the others are compared with.
        target: validation loss in nats, to which the way is compared.
    """

    def __init__(self, groups: Sequence[Group], baseline: str, target: float | None = None):
        self.groups = groups
        runs = [run for group in groups for run in group.runs]
        kinds = sorted({"validation" if len(run.curves.validation[0]) else "training" for run in runs})
        ends = sorted({run.step for run in runs})
        alarms = (f"the runs end at different steps: {', '.join(f'{end:,}' for end in ends)}",) * (len(ends) > 1)
        if cut := [show(run.folder) for run in runs if not RunFolder(run.folder).result.exists()]:
            alarms += (f"not complete, and in the means with the last loss that they have: {', '.join(cut)}",)
        labels, metric = tuple(group.label for group in groups), f"last {' or '.join(kinds)} loss, nats"
        self.question = Question("Comparison", metric, labels, baseline=baseline, target=target, alarms=alarms)
        self.curves = {run.folder: run.curves for run in runs}
        results = [result for group in groups for result in group.results()]
        self.analysis: Analysis = analyzed(self.question, results, self.curves)

    def text(self) -> str:
        """Tables of the groups and their differences, then a line for each run."""
        return f"{study_text(self.question, self.analysis)}\n\n{aligned(self._runs().rows)}"

    def json(self) -> dict[str, Any]:
        """The same with every digit."""
        groups = [
            {
                "group": group.label,
                "last_loss_nats": asdict(Estimate.of([run.last for run in group.runs])),
                "best_loss_nats": asdict(Estimate.of([run.best for run in group.runs])),
                "runs": [
                    {
                        "folder": str(run.folder), "step": run.step, "last_loss_nats": run.last,
                        "best_loss_nats": run.best, **run.bits, "seconds": run.seconds,
                        "tokens_per_second": run.tokens_per_second,
                    }
                    for run in group.runs
                ],
            }
            for group in self.groups
        ]  # fmt: skip
        differences = [
            {
                "group": one.cell.arm,
                "less": one.against.arm,
                **asdict(one.paired),
                "t_p": one.t_p,
                "flips_p": one.flips_p,
            }
            for one in self.analysis.compared
            if one.paired
        ]
        return {"groups": groups, "differences": differences, "alarms": list(self.analysis.alarms)}

    def write(self, path: Path) -> None:
        """Write the page, or of a name that ends in .png the curves alone.

        Raises:
            UserError: for a name that ends in neither .html nor .png, or a file that cannot be written.
        """
        if path.suffix not in SUFFIXES:
            raise UserError(f"--out {path}: its name ends in {' or '.join(SUFFIXES)}")
        data = self._png() if path.suffix == ".png" else self._page()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, data)
        except OSError as error:
            raise UserError(f"--out: cannot write {path}: {error.strerror}") from None

    def _page(self) -> bytes:
        arms = {group.label: group.runs[0].described for group in self.groups}
        return study_page(self.question, self.analysis, self.curves, arms, [self._runs()])

    def _runs(self) -> Table:
        runs = [(group, run) for group in self.groups for run in group.runs]
        units = list(dict.fromkeys(unit for _, run in runs for unit in run.bits))
        header = ("run", "group", "seed", "step", "last loss", "best loss", *units, "tokens/s", "time")
        rows: list[tuple[str, ...]] = [header]
        for group, run in runs:
            bits = (f"{run.bits[unit]:.4f}" if unit in run.bits else "" for unit in units)
            place = (show(run.folder), show(group.label), show(run.config.get("seed", "")), f"{run.step:,}")
            speed = f"{run.tokens_per_second:,.0f}" if run.tokens_per_second is not None else ""
            seconds = f"{run.seconds:,.0f} s" if run.seconds is not None else ""
            rows.append((*place, f"{run.last:.4f}", f"{run.best:.4f}", *bits, speed, seconds))
        return Table("Runs", rows)

    def _png(self) -> bytes:
        # Imported here because it takes a second. A bare Figure needs no display and leaves no global state.
        from matplotlib import style
        from matplotlib.figure import Figure

        buffer, cells = io.BytesIO(), dict(enumerate(self.analysis.cells))
        with style.context(["default", STYLE]):
            drawing = Figure(figsize=_INCHES, layout="constrained")
            axes = drawing.subplots()
            draw_curves(axes, cells, self.curves, "losses", labelled=True)
            axes.legend(loc="upper right")
            drawing.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
        return buffer.getvalue()
