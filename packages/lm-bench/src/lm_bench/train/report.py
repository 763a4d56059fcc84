"""The results of `lm-bench train` as tables, and as the lines of proof."""

from collections.abc import Sequence

from lm_bench.flags import TrainFlags
from lm_bench.statistics import with_quartiles
from lm_bench.train.convergence import Convergence
from lm_bench.train.loop import LOG_EVERY, SAVE_EVERY, LoopCost
from lm_bench.train.measurement import Results
from lm_bench.train.memory import PeakMemory
from lm_bench.train.sides import OURS
from lm_bench.train.speed import Proof, Speed
from lm_core.terminal import aligned


def train_report(results: Results, flags: TrainFlags) -> str:
    """Everything, for people."""
    how = "compiled" if flags.compile else "eager"
    lines = [f"medians over {flags.rounds} rounds, {flags.dtype}, {how}; ratio = time of ours / time of the side"]
    if results.missing:
        why = "torch's alone" if flags.backend == "mlx" else "not installed"
        lines.append(f"{why}: {', '.join(results.missing)}")
    if results.speed:
        kind = "bfloat16" if results.device == "cuda" else "float32"
        peak = f"the {results.peak_flops / 1e12:.3g} TFLOP/s that a matrix product in {kind} reaches here"
        title = f"speed: share of peak is of {peak}" if results.peak_flops else "speed"
        lines += ["", title, _speed(results.speed), ""]
        lines += map(proof_line, results.proofs)
    if results.memory:
        lines += ["", _memory_title(results.device), _memory(results.memory, results.device)]
    if results.loop:
        title = f"loop: logs every {LOG_EVERY} steps, checkpoints every {SAVE_EVERY}; ratio = time / time of bare steps"
        lines += ["", title, _loop(results.loop)]
    if results.convergence:
        lines += ["", "convergence: nanogpt-char on the text, nats per character", _convergence(results.convergence)]
    return "\n".join(lines)


def _speed(rows: Sequence[Speed]) -> str:
    table: list[tuple[str, ...]] = [
        ("case", "part", "side", "ms", "tokens/s", "ratio (quartiles)", "share of peak"),
    ]
    for row in rows:
        ms, tokens = f"{row.step_ms.median:.2f}", f"{row.tokens_per_second.median:,.0f}"
        ratio = with_quartiles(row.ratio) if row.ratio else ""
        share = "" if row.peak_share is None else f"{row.peak_share:.1%}"
        table.append((row.case, row.part, row.side, ms, tokens, ratio, share))
    return aligned(table)


def proof_line(proof: Proof) -> str:
    """The line that says a peer trained our model."""
    a = proof.agreement
    return (
        f"same model: {proof.case}, {proof.part}: the losses of ours and {proof.side} agree within {a.worst:.1e} nats"
        f" (limit {a.tolerance:g}) over {a.steps} steps, {a.first_loss:.3f} -> {a.last_loss:.3f}"
    )


def _memory_title(device: str) -> str:
    if device == "cuda":
        return "memory: the most that torch allocated on the GPU"
    return "memory: the most that was resident in a process of its own; ratio = ours / side"


def _memory(rows: Sequence[PeakMemory], device: str) -> str:
    ours = {row.case: row.memory for row in rows if row.side == OURS}
    on_host = device != "cuda"  # there the imports count, and are taken off for what training itself adds
    table = [("case", "side", "peak MiB", "ratio", *(("above import MiB", "ratio") if on_host else ()))]
    for row in rows:
        cells: tuple[str, ...] = (
            row.case,
            row.side,
            f"{row.memory.peak:.0f}",
            f"{ours[row.case].peak / row.memory.peak:.2f}",
        )
        if on_host:
            cells += (f"{row.memory.added:.0f}", f"{ours[row.case].added / row.memory.added:.2f}")
        table.append(cells)
    return aligned(table)


def _loop(rows: Sequence[LoopCost]) -> str:
    table = [("case", "steps", "ms per step", "ratio (quartiles)")]
    for row in rows:
        ratio = with_quartiles(row.ratio) if row.ratio else ""
        table.append((row.case, row.side, f"{row.step_ms.median:.2f}", ratio))
    return aligned(table)


def _convergence(rows: Sequence[Convergence]) -> str:
    header = ("side", "steps", "last training loss", "validation loss")
    cells = ((row.side, f"{row.iterations:,}", f"{row.train_loss:.4f}", f"{row.val_loss:.4f}") for row in rows)
    return aligned([header, *cells])
