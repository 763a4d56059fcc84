"""The measurement of `lm-bench infer`: both sides decode in turn, from the same weights and prompts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from lm_bench.cases import SEED
from lm_bench.flags import InferFlags
from lm_bench.infer.sides import Decoded, Side, SideName, make_side, side_names
from lm_bench.infer.workload import bytes_per_id, check_room, model_of, prompts_of
from lm_bench.rounds import interleaved, ratios
from lm_bench.statistics import Quartiles
from lm_core.config import ModelConfig, StepConfig
from lm_core.model.init import initial_arrays

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Inference:
    """One side on one case with one number of rows."""

    case: str
    rows: int
    side: SideName
    tokens_per_second: Quartiles
    """Of all rows together, without the prompt's time."""
    latency_ms: tuple[float, ...]
    """The `PERCENTILES` of the time from one id to the next, over all rounds."""
    prefill_ms: Quartiles
    ratio: Quartiles | None
    """Time per id of ours / of this side within each round; below 1 ours is faster."""
    bandwidth_share: float
    """Bytes of weights that an id needs, over those that this machine can read in its time."""


@dataclass(frozen=True)
class SameIds:
    """How far both sides wrote the same."""

    case: str
    rows: int
    agreeing: int
    """Ids before the first difference, over all rows; past it the texts are different ones."""
    total: int
    distinct: int
    """Different ids among ours: a text that repeats one id would prove nothing."""


@dataclass
class Results:
    """All that was measured."""

    missing: list[str]
    bandwidth: float
    """Bytes per second that this machine reads."""
    inference: list[Inference] = field(default_factory=list)
    same_ids: list[SameIds] = field(default_factory=list)


def measure(flags: InferFlags, say: Callable[[str], None]) -> Results:
    """Measure what the flags ask for.

    Raises:
        UserError: when prompt and text do not fit into a model's context, or there is no such device.
    """
    for case in flags.cases:
        check_room(case, model_of(case), flags.prompt_tokens, flags.tokens)
    from lm_bench import peak  # torch is imported when something is measured

    device = peak.device_type(flags.device)
    wait = partial(peak.wait, device)
    names, missing = side_names()
    results = Results(missing, peak.read_bandwidth(device))
    step = StepConfig(dtype=flags.dtype, compile=flags.compile, device=flags.device)
    for case in flags.cases:
        model = model_of(case)
        weights = initial_arrays(model, SEED)
        for rows in flags.rows:
            say(f"{case}, {rows} {'row' if rows == 1 else 'rows'} ...")
            sides = {name: make_side(name, model, step, weights, rows, wait) for name in names}
            _measure_rows(flags, case, model, sides, rows, results)
    return results


def _measure_rows(
    flags: InferFlags, case: str, model: ModelConfig, sides: Mapping[SideName, Side], rows: int, results: Results
) -> None:
    prompts = prompts_of(model, rows, flags.prompt_tokens)
    rounds = interleaved(list(sides), flags.rounds, lambda name: sides[name].decode(prompts, flags.tokens))
    needed = bytes_per_id(model, flags.dtype)
    per_id = {name: [float(np.mean(decoded.latencies)) for decoded in sample] for name, sample in rounds.items()}
    for name, sample in rounds.items():
        pooled = [1e3 * latency for decoded in sample for latency in decoded.latencies]
        results.inference.append(
            Inference(
                case=case,
                rows=rows,
                side=name,
                tokens_per_second=Quartiles.of([rows / seconds for seconds in per_id[name]]),
                latency_ms=tuple(float(p) for p in np.percentile(pooled, PERCENTILES)),
                prefill_ms=Quartiles.of([1e3 * decoded.prefill for decoded in sample]),
                ratio=None if name == "ours" else ratios(per_id[name], per_id["ours"]),
                bandwidth_share=Quartiles.of([needed / s / results.bandwidth for s in per_id[name]]).median,
            )
        )
    if "huggingface" in rounds:
        results.same_ids.append(compare(case, rounds["ours"], rounds["huggingface"]))


def compare(case: str, ours: Sequence[Decoded], theirs: Sequence[Decoded]) -> SameIds:
    """Compare the ids of the worst round."""
    pairs = [list(zip(a.ids, b.ids, strict=True)) for a, b in zip(ours, theirs, strict=True)]
    agreeing = min(sum(common_start(a, b) for a, b in rows) for rows in pairs)
    ids = ours[0].ids
    return SameIds(case, len(ids), agreeing, sum(map(len, ids)), len({i for row in ids for i in row}))


def common_start(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two texts have in common before the first difference."""
    different = (i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
    return next(different, len(a))
