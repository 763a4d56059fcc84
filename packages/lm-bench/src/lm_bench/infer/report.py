"""The results of `lm-bench infer` as a table, and as the lines that say whether both wrote the same."""

from collections.abc import Sequence

from lm_bench.flags import InferFlags
from lm_bench.infer.measurement import PERCENTILES, Inference, Results, SameIds
from lm_bench.infer.workload import CHAR_CONTEXT
from lm_bench.statistics import with_quartiles
from lm_core.terminal import aligned


def infer_report(results: Results, flags: InferFlags) -> str:
    """Everything, for people."""
    how = "compiled" if flags.compile else "eager"
    lines = [
        f"greedy, {flags.tokens} ids after {flags.prompt_tokens}; medians over {flags.rounds} rounds, {flags.dtype},"
        f" {how}; ratio = time per id of ours / of the side",
        f"share of bandwidth: weights read per id, of {results.bandwidth / 1e9:.3g} GB/s measured here"
        " (over 100% where the weights stay in the caches)",
    ]
    if "nanogpt-char" in flags.cases:
        lines.append(f"nanogpt-char has a context of {CHAR_CONTEXT} here, so that a text fits behind a prompt")
    if results.missing:
        lines.append(f"not installed: {', '.join(results.missing)}")
    return "\n".join([*lines, "", _table(results.inference), "", *map(same_ids_line, results.same_ids)]).rstrip()


def _table(rows: Sequence[Inference]) -> str:
    percentiles = [f"p{p} ms" for p in PERCENTILES]
    table: list[tuple[str, ...]] = [
        ("case", "rows", "side", "tokens/s", "ratio (quartiles)", *percentiles, "prefill ms", "share of bandwidth")
    ]
    for row in rows:
        speed = f"{row.tokens_per_second.median:,.1f}", with_quartiles(row.ratio) if row.ratio else ""
        latencies = [f"{latency:.3f}" for latency in row.latency_ms]
        rest = f"{row.prefill_ms.median:.2f}", f"{row.bandwidth_share:.0%}"
        table.append((row.case, str(row.rows), row.side, *speed, *latencies, *rest))
    return aligned(table)


def same_ids_line(row: SameIds) -> str:
    """Line on the comparison of the ids."""
    who = f"{row.case}, {row.rows} {'row' if row.rows == 1 else 'rows'}"
    if row.agreeing < row.total:
        return f"NOT the same ids: {who}: {row.agreeing} of {row.total} agree before the first difference"
    return f"same ids: {who}: all {row.total}, {row.distinct} different ones among them"
