"""The ranks of a run: how a launcher's processes find each other, and whether they fit together.

    RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT    torchrun, or srun with these set    --> torch
    MLX_RANK, MLX_HOSTFILE                        mlx.launch                          --> MLX

Without these a program is alone, and no framework is loaded for it.
"""

import hashlib
import importlib.util
import json
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from math import gcd
from pathlib import Path
from threading import Timer
from types import FrameType

from lm_core import errors, terminal
from lm_core.backend import Backend, load_backend
from lm_core.data.batches import Batch
from lm_core.errors import LostRankError, UserError
from lm_core.run.folder import RunFolder
from lm_core.run.plan import Plan
from lm_core.world import ALONE, GONE, World, become, current

ECHO = 5.0
"""Seconds for which a signal counts as the same one: the terminal sends it, and then the launcher."""
_LAST_WORDS = 5.0
"""Seconds that a rank has left after a signal."""
_TORCH = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_MLX = ("MLX_RANK", "MLX_HOSTFILE")


def launched_by(environment: Mapping[str, str]) -> str | None:
    """The backend whose launcher has started this process as one of several; None where it is alone.

    Raises:
        UserError: when the environment says only half of it.
    """
    if all(environment.get(name) for name in _MLX):
        return "mlx"
    if not environment.get("RANK") or environment.get("WORLD_SIZE", "1") == "1":
        return None
    missing = [name for name in _TORCH if not environment.get(name)]
    if missing:
        raise UserError(
            f"RANK and WORLD_SIZE are set, and {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not: start"
            " with torchrun, or unset them to train in one process"
        )
    return "torch"


def exit_code_of(main: Callable[[], int | None], program: str) -> int:
    """`lm_core.errors.exit_code_of` for a program that may be one of several ranks.

    The ranks but the first print nothing, and an error that ends them all is printed once.
    """

    def joined() -> int | None:
        backend = launched_by(os.environ)
        if backend is not None:
            world = load_backend(backend).world()
            become(world)
            signal.signal(signal.SIGTERM, _end_soon)
            terminal.speak(world.is_first, world.reports)
        try:
            return main()
        except Exception as error:
            if not current().is_lost(error):
                raise
            raise LostRankError(GONE.format(current().rank, current().size)) from error

    try:
        code = errors.exit_code_of(joined, program)
    finally:
        world = current()
        become(ALONE)
        terminal.speak()
        world.close()
    if world.size > 1:
        # What a framework's threads do while the process ends under them is not waited for: some abort it.
        terminal.end(code)
    return code


def _end_soon(number: int, _frame: FrameType | None) -> None:
    """End on a signal that comes outside of a session, after the time that it takes to say why a rank ends.

    A launcher sends it as soon as it sees that a rank has gone.
    """
    timer = Timer(_LAST_WORDS, os._exit, [128 + number])
    timer.daemon = True
    timer.start()


def one_folder(make: Callable[[], RunFolder], world: World, key: str = "") -> RunFolder:
    """The folder that the first rank makes or finds, on every rank; with a `key`, the one of before a restart."""
    made = list[RunFolder]()

    def path() -> str:
        before = world.recall(key) if key else None
        made.append(RunFolder(Path(before)) if before else make())
        if key:
            world.remember(key, str(made[0].path))
        return str(made[0].path)

    found = Path(world.of_first(path))
    return made[0] if made else RunFolder(found)


def check_ranks(plan: Plan, world: World, backend: Backend) -> None:
    """Refuse ranks among which a run cannot be divided, or that would not train the same one.

    Raises:
        UserError: on every rank.
    """
    if world.size == 1:
        return
    started = launched_by(os.environ)
    name = backend.name
    if started and started != name:
        launcher = {"torch": "torchrun", "mlx": "mlx.launch"}
        raise UserError(
            f"{world.size} ranks were started by {launcher[started]}, and the backend is {name}: start them by"
            f" {launcher.get(name, name)}, or give backend {started}"
        )
    check_divides(plan, world.size)
    world.check_same(
        {
            "code": code_hash(["lm_core", type(backend).__module__.partition(".")[0]]),
            "config": _config_hash(plan),
            "data": _data_hash(plan),
            "checkpoint": plan.checkpoint.path.stem if plan.checkpoint else "none",
        },
        "start all of them from one version of the project, with one config and the same files",
    )


def check_divides(plan: Plan, size: int) -> None:
    """Refuse a number of ranks that does not divide the rows of every micro-batch.

    Raises:
        UserError: with the numbers that do.
    """
    parts = plan.step.grad_accum_steps
    rows = reduce(gcd, {rows for rows, _ in plan.shapes})
    if rows % (parts * size) == 0:
        return
    most = rows // parts
    fit = ", ".join(str(n) for n in range(1, most + 1) if most % n == 0)
    micro = f" in {parts} micro-batches" if parts > 1 else ""
    raise UserError(
        f"{size} ranks do not divide a batch of {rows} rows{micro}: start {fit} of them, or change the batch size"
    )


def code_hash(packages: Iterable[str]) -> str:
    """Hash of the source of packages, such as those that train: this one and a backend's."""
    digest = hashlib.sha256()
    for package in packages:
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or []) if spec else []:
            for path in sorted(Path(root).rglob("*.py")):
                digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _config_hash(plan: Plan) -> str:
    """Of the config but for the keys that name data, which may lie elsewhere on each machine."""
    config = {key: value for key, value in plan.kept_config.items() if key not in plan.content}
    parts = [config, plan.seed, plan.model.model_dump(mode="json"), plan.optimizer.model_dump(mode="json")]
    parts += [
        plan.step.model_dump(mode="json"),
        plan.loop.model_dump(mode="json"),
        plan.schedule.model_dump(mode="json"),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _data_hash(plan: Plan) -> str:
    """Of what the metadata says of the data, and of the first batches themselves."""
    digest = hashlib.sha256(json.dumps(plan.metadata, sort_keys=True, default=str).encode())
    digest.update(plan.tokenizer.fingerprint.encode())
    first = plan.checkpoint.step + 1 if plan.checkpoint else 1
    _add(digest, plan.batches.batch(first))
    digest.update(str(len(plan.evaluation)).encode())
    for batch in plan.evaluation[:1]:
        _add(digest, batch)
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", batch: Batch) -> None:
    for array in (batch.inputs, batch.targets, batch.weights, batch.segments):
        digest.update(b"none" if array is None else array.tobytes())
