"""Programs that train, found by name: what a study checks before its first run, and runs.

train --> transformerlm-train       testbed_d and other apps --> `APP` in their module `cli`
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lm_core.config import Config
from lm_core.errors import UserError
from lm_core.run.folder import RunFolder
from lm_core.run.plan import Plan

_OWN = {"train": "lm_pipeline.commands.train"}


@dataclass(frozen=True)
class Program:
    """A program that trains one run."""

    package: str
    """Package that it is part of."""
    flags: type[Config]
    """Its config, with `seed`, `backend`, `save_dir` and `resume` among the keys."""
    plan: Callable[[Any, RunFolder, Sequence[str]], Plan]
    """Plan of a run in a folder, given its config and what was typed. Nothing is written."""
    run: Callable[[Sequence[str]], object]
    """One run, new or resumed, by its command line; its errors are raised."""


def program_of(name: str) -> Program:
    """The program of that name.

    Raises:
        UserError: when there is none.
    """
    module = _OWN.get(name, f"{name}.cli")
    try:
        app = importlib.import_module(module).APP
    except (ModuleNotFoundError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name not in (module, name):
            raise  # it is there, and something that it needs is not
        raise UserError(
            f"app: there is no program {name!r} to train with: install its package, or take train"
        ) from None
    return Program(module.partition(".")[0], app.flags, app.plan, app.run)
