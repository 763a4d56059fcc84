"""The results of `lm-bench tokenizer` as tables, and as the lines that say what was proven and what is missing."""

from collections.abc import Sequence

from lm_bench.flags import TokenizerFlags
from lm_bench.statistics import Quartiles
from lm_bench.tokenizer.decoding import Decoding
from lm_bench.tokenizer.encoding import Encoding, SameIds
from lm_bench.tokenizer.libraries import LIBRARIES
from lm_bench.tokenizer.measurement import Results
from lm_bench.tokenizer.scaling import Scaling
from lm_bench.tokenizer.starting import Start
from lm_bench.tokenizer.training import Training
from lm_core.terminal import aligned


def tokenizer_report(results: Results, flags: TokenizerFlags) -> str:
    """Everything, for people."""
    lines = [settings(results, flags)]
    if results.missing:
        lines.append(f"not installed: {', '.join(results.missing)}")
    lines += [f"failed: {words}" for words in results.failed]
    if results.train:
        lines += ["", f"train: {flags.train_size:,} tokens, {max(flags.threads)} threads", _train(results.train)]
    if results.encode:
        lines += ["", "encode: MB/s (cold: a new tokenizer; warm: the same text again)", _encode(results.encode)]
    if results.same_ids:
        lines += ["", *map(same_ids_line, results.same_ids)]
    if results.decode:
        lines += ["", "decode: MB of text per second, 1 thread", _decode(results.decode)]
    if results.start:
        lines += [
            "",
            'start: a new process that reads GPT-2 and encodes 1 kB; encode("Hello world"), warm',
            _start(results.start),
        ]
    if results.linear:
        lines += ["", "linear: ns per byte against the length of the text, 1 thread", _scaling(results.linear)]
    if results.pathological:
        lines += ["", "pathological: ns per byte, 1 MB of one character, 1 thread", _scaling(results.pathological)]
    shown = {row.library for rows in (results.train, results.encode, results.decode) for row in rows}
    notes = [LIBRARIES[name].note for name in LIBRARIES if name in shown and LIBRARIES[name].note]
    return "\n".join([*lines, "", *notes]).rstrip()


def settings(results: Results, flags: TokenizerFlags) -> str:
    """Line on the rounds that the figures are medians of, and on the side that the ratios are against."""
    return (
        f"medians over {flags.rounds} rounds ({flags.train_rounds} of training); ratio = time of {results.reference} /"
        f" time of the other: below 1, {results.reference} is faster"
    )


def ratio(q: Quartiles | None) -> str:
    """A ratio between its quartiles, or nothing."""
    return f"{q.median:.2f} ({q.low:.2f}-{q.high:.2f})" if q else ""


def _train(rows: Sequence[Training]) -> str:
    table: list[tuple[str, ...]] = [
        ("corpus", "MB", "library", "seconds", "ratio (quartiles)", "load s", "peak MiB", "merges")
    ]
    for row in rows:
        cells = (row.corpus, f"{row.size / 1e6:.1f}", row.library)
        if row.seconds is None:
            table.append((*cells, "", "", "", "", row.merges))
            continue
        times = f"{row.seconds.median:.2f}", ratio(row.ratio), f"{row.loading:.2f}"
        table.append((*cells, *times, f"{row.peak_mib:.0f}", row.merges))
    return aligned(table)


def _encode(rows: Sequence[Encoding]) -> str:
    table = [("corpus", "library", "threads", "MB", "cold", "ratio (quartiles)", "warm", "ratio (quartiles)")]
    for row in rows:
        cold, warm = (_figure(q.median) for q in (row.cold_mb_per_second, row.warm_mb_per_second))
        cells = (row.corpus, row.library, str(row.threads), f"{row.size / 1e6:.1f}")
        table.append((*cells, cold, ratio(row.cold_ratio), warm, ratio(row.warm_ratio)))
    return aligned(table)


def same_ids_line(row: SameIds) -> str:
    """Lines on the comparison of all ids."""
    who = f"{row.corpus}: {row.library}, {row.threads} thread{'s' if row.threads > 1 else ''}"
    if row.difference:
        return f"{'NOT the same ids' if row.tokens else 'failed'}: {who}: {row.difference}"
    own = "" if LIBRARIES[row.library].gpt2 else " of its own"
    return f"{'ids' if own else 'same ids'}: {who}: {row.tokens:,} tokens{own}"


def _decode(rows: Sequence[Decoding]) -> str:
    table = [("corpus", "library", "from", "MB", "MB/s", "ratio (quartiles)", "text")]
    for row in rows:
        cells = (row.corpus, row.library, row.takes, f"{row.size / 1e6:.1f}", _figure(row.mb_per_second.median))
        table.append((*cells, ratio(row.ratio), "equal" if row.equal else "DIFFERS"))
    return aligned(table)


def _start(rows: Sequence[Start]) -> str:
    table = [("library", "process ms", "ratio (quartiles)", "prompt ns", "ratio (quartiles)")]
    for row in rows:
        prompt = f"{row.prompt_ns.median:.0f}" if row.prompt_ns else ""
        table.append(
            (row.library, f"{1e3 * row.seconds.median:.0f}", ratio(row.ratio), prompt, ratio(row.prompt_ratio))
        )
    return aligned(table)


def _scaling(rows: Sequence[Scaling]) -> str:
    table = [("corpus", "library", "text", "MB", "cold", "over the first (quartiles)", "warm")]
    for row in rows:
        cold, warm = (f"{q.median:.2f}" for q in (row.cold_ns_per_byte, row.warm_ns_per_byte))
        table.append((row.corpus, row.library, row.text, f"{row.size / 1e6:.1f}", cold, ratio(row.over_ordinary), warm))
    return aligned(table)


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}"
