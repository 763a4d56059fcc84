"""Configs of runs, flat, and side by side."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_core.config import read_toml
from lm_core.run.about import About
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.folder import RunFolder
from lm_core.run.resume import flat
from lm_core.terminal import show

Config = dict[str, Any]
"""Dotted key -> value."""


@dataclass(frozen=True)
class Described:
    """What a run folder says of its run, besides the records."""

    config: Config
    """That which the newest checkpoint knows; that of config.toml, which anybody may have edited, without one."""
    about: About | None


def described(folder: Path) -> Described:
    """Read it.

    Raises:
        UserError: when there is no checkpoint and config.toml is not TOML.
    """
    run = RunFolder(folder)
    metadata = Checkpoints(run.checkpoints).newest_metadata()
    known = metadata.get("config")
    if known is None and run.config.exists():
        known = read_toml(run.config)
    return Described(flat(known or {}), About.of(metadata))


def side_by_side(configs: Mapping[str, Config]) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Rows of the keys that differ, a cell for each config, under a header; and rows of those that all have alike."""
    differing: list[tuple[str, ...]] = [("", *map(show, configs))]
    alike: list[tuple[str, ...]] = []
    for key in dict.fromkeys(key for config in configs.values() for key in config):
        values = [show(config[key]) if key in config else "-" for config in configs.values()]
        if len(set(values)) > 1:
            differing.append((show(key), *values))
        else:
            alike.append((show(key), values[0]))
    return differing, alike
