"""Row: a newest checkpoint whose files are flipped, cut, missing or swapped, before a run is resumed.

That every flipped bit and every cut is noticed, of token files too, is proved without a process where the files are
read: `test_checkpoint_damage.py` of lm-core and `tests/test_token_files.py`, with more trials under `-m slow`.
"""

from pathlib import Path

import numpy as np

from lm_bench.faults.bench import Bench
from lm_bench.faults.row import Row
from lm_core.run.checkpoint import Checkpoint, Checkpoints
from lm_core.run.folder import RunFolder

SUFFIXES = (".safetensors", ".metadata")


def damaged(bench: Bench, row: Row) -> None:
    """It says which file before the first step, takes the checkpoint before, and ends as ever."""
    for i in range(bench.count(200, 1)):
        draw = bench.draw("damage", i)
        trial = bench.begun(f"damage-{i}")
        checkpoints = Checkpoints(RunFolder(Path(trial.folder)).checkpoints)
        before, newest = sorted(map(checkpoints.read, checkpoints.files()), key=lambda checkpoint: checkpoint.step)
        path = newest.path.with_suffix(SUFFIXES[i % 2])
        how, content = _damage(draw, path, before)
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        row.trials += 1
        what = f"--only damage --seed {bench.seed}: run {i} of step {newest.step}, {path.suffix} {how}"
        bench.resume(row, trial, what, said=(newest.path.stem, f"at step {before.step} of"))


def _damage(draw: np.random.Generator, path: Path, before: Checkpoint) -> tuple[str, bytes | None]:
    """Description of the damage to a file, and its content then; None for a file that is gone."""
    good = path.read_bytes()
    match int(draw.integers(8)):
        case 0:
            return "empty", b""
        case 1:
            return "of the checkpoint before", before.path.with_suffix(path.suffix).read_bytes()
        case 2 if path.suffix == ".safetensors":  # without its metadata a checkpoint is none, and nobody is misled
            return "missing", None
        case 3 | 4:
            length = int(draw.integers(len(good)))
            return f"cut to {length} bytes", good[:length]
        case _:
            bit = int(draw.integers(8 * len(good)))
            return f"with bit {bit} flipped", _flipped(good, bit)


def _flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
