"""Policy of what a resume may change of a run, and history of what it did change.

    checkpoint's config --recorded--> base --typed flags--> config --resumed_as, by Policy--> refused, or History
    History --> the next checkpoints, and a record of kind "resume" in metrics.jsonl, which the report reads

A run is what its checkpoint says. config.toml is for people: it is compared, never believed. A change that no
checkpoint has yet, because the run was killed before it saved again, is taken from the record of the log.

Checkpoints from before this was recorded have no config: then that of config.toml has to do.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from lm_core.config import DECAYING, Config, ScheduleConfig, members_of
from lm_core.errors import UserError
from lm_core.run.checkpoint import Checkpoint
from lm_core.run.folder import RunFolder, upgraded
from lm_core.run.log import RESUME, RunLog, read_records
from lm_core.schedules import learning_rate
from lm_core.terminal import say

Decision = Literal["refused", "recorded", "no effect", "call"]
Values = Mapping[str, Any]
"""Dotted key -> value, as JSON has it."""
Entry = dict[str, Any]
"""One change in a history: `step`, `key`, `from`, `to`."""
_MOST = 5
C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class Change:
    """A key that has another value than before."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key} {_shown(self.old)} -> {_shown(self.new)}"


class Policy:
    """Decision for each key of an app's config on resume. Keys are given as words of one string.

    Args:
        refused: what the weights, the optimizer's state or the meaning of the losses stand on; another value is another
            run.
        recorded: what changes the results from here on; allowed, and kept in the history.
        no_effect: what changes no result: how often something is logged, where it goes.
        call: what is about one call of the program, and not kept with the run.
    """

    def __init__(self, *, refused: str, recorded: str, no_effect: str, call: str):
        groups: dict[Decision, str] = {
            "refused": refused, "recorded": recorded, "no effect": no_effect, "call": call,
        }  # fmt: skip
        self.decisions: list[tuple[str, Decision]] = [(key, d) for d, keys in groups.items() for key in keys.split()]
        self._by_key = dict(self.decisions)

    def of(self, key: str) -> Decision:
        """Return the decision for a key; a key without one is refused."""
        return self._by_key.get(key, "refused")

    def check(self, before: Config, now: Config, advice: str, only: Collection[str] = ()) -> None:
        """Refuse a config in which a key differs that must not, before anything that it names is read.

        Args:
            before: the config of the run.
            now: that of the resumed run.
            advice: what to do about a refusal.
            only: the keys that count; all that are refused when not given.

        Raises:
            UserError: naming all that differ.
        """
        changes = differences(values_of(before), values_of(now))
        _refuse([c for c in changes if self.of(c.key) == "refused" and (not only or c.key in only)], advice)

    def kept(self, config: Config) -> dict[str, Any]:
        """The config as tables, without what is about one call and what is not set."""
        return self._kept(config.model_dump(mode="json", exclude_none=True), "")

    def _kept(self, table: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: self._kept(value, f"{prefix}{key}.") if isinstance(value, dict) else value
            for key, value in table.items()
            if self.of(prefix + key) != "call"
        }

    def problems(self, cls: type[Config]) -> list[str]:
        """Keys of a config without a decision, or with two, and decisions without a key: for a test."""
        keys, decided = keys_of(cls), [key for key, _ in self.decisions]
        return [
            *(f"{key}: no decision" for key in keys if key not in decided),
            *(f"{key}: no such key" for key in dict.fromkeys(decided) if key not in keys),
            *(f"{key}: two decisions" for key in dict.fromkeys(decided) if decided.count(key) > 1),
        ]


def keys_of(cls: type[Config], prefix: str = "") -> list[str]:
    """The dotted keys of a config; of a field that holds one of several configs, those of all of them."""
    keys: dict[str, None] = {}
    for name, info in cls.model_fields.items():
        members = [member for member in members_of(info.annotation) if issubclass(member, Config)]
        inner = [key for member in members for key in keys_of(member, f"{prefix}{name}.")]
        keys |= dict.fromkeys(inner or [prefix + name])
    return list(keys)


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A table of tables as dotted keys; what is None is left out, as in TOML."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            values[prefix + key] = list(value) if isinstance(value, tuple) else value
    return values


def values_of(config: Config) -> dict[str, Any]:
    """The dotted keys of a config and their values."""
    return flat(config.model_dump(mode="json"))


def differences(old: Values, new: Values) -> list[Change]:
    """The keys whose values differ, in the order of `new`."""
    keys = dict.fromkeys([*new, *old])
    return [Change(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


@dataclass(frozen=True)
class History:
    """Changes of a run by resumes: earlier ones, and the one at `step`."""

    step: int = 0
    earlier: tuple[Entry, ...] = ()
    changes: tuple[Change, ...] = ()
    """Changes that affect the results from here on."""
    settings: tuple[Change, ...] = ()
    """Changes that do not."""

    @property
    def entries(self) -> list[Entry]:
        """Metadata for a checkpoint."""
        now = [{"step": self.step, "key": c.key, "from": c.old, "to": c.new} for c in self.changes]
        return [*self.earlier, *now]

    def lines(self) -> Iterator[str]:
        """Lines to print on resume."""
        if self.changes:
            yield f"changed from step {self.step + 1} on: {'; '.join(map(str, self.changes))}"

    def record(self, log: RunLog) -> None:
        """Write the change to the log."""
        changed, settings = ({c.key: [c.old, c.new] for c in group} for group in (self.changes, self.settings))
        log.resumed(self.step, {"changed": changed, "settings": settings})


def resumed_as(
    policy: Policy,
    before: Config,
    now: Config,
    checkpoint: Checkpoint,
    advice: str,
    content: tuple[Values, Values] = ({}, {}),
) -> History:
    """The history of a run that is resumed from a checkpoint with another config.

    Args:
        policy: what may change.
        before: the config that the checkpoint was saved with.
        now: that of the resumed run.
        checkpoint: what is resumed.
        advice: what to do about a refusal.
        content: hashes of what the configs' paths name, before and now, by key: a file counts by what it holds, and
            where it lies is a setting.

    Raises:
        UserError: when a key differs that must not, naming all that do.
    """
    old, new = values_of(before), values_of(now)
    by: dict[Decision, list[Change]] = {"refused": [], "recorded": [], "no effect": [], "call": []}
    for change in differences({**old, **content[0]}, {**new, **content[1]}):
        by[policy.of(change.key)].append(change)
    _refuse(by["refused"], advice)
    # A resume of a run that was killed before it saved takes its config from the log: the path, and not the hash.
    moved = [change for change in differences(old, new) if change.key in content[1]]
    earlier = tuple(checkpoint.metadata.get("history") or ())
    return History(checkpoint.step, earlier, tuple(by["recorded"]), (*by["no effect"], *moved))


@dataclass(frozen=True)
class Recorded(Generic[C]):
    """The run that is resumed: its checkpoint, and its config."""

    checkpoint: Checkpoint | None
    """None where nothing was saved."""
    base: dict[str, Any]
    """Config under the flags, as tables: the checkpoint's, with the changes that it lacks."""
    before: C
    """Config that the checkpoint was saved with."""


def recorded(
    cls: type[C], policy: Policy, folder: RunFolder, checkpoint: Checkpoint | None, *, resumed: bool = True
) -> Recorded[C]:
    """The config that a run is resumed with; keys of config.toml that differ from it are reported.

    Args:
        cls: the app's config.
        policy: what a resume may change of it.
        folder: the run.
        checkpoint: what is resumed; None where nothing was saved.
        resumed: whether this run is resumed, and not another one started from a checkpoint of it.

    Raises:
        UserError: when there is no config, it is not one of this app, or the folder is of a newer format.
    """
    folder.check_format()
    metadata = checkpoint.metadata if checkpoint else None
    where = f"{folder.path}: the config in the checkpoint"
    known = config_of(cls, metadata, where)
    if known is None:
        only = folder.read_config(cls)
        return Recorded(checkpoint, only.model_dump(mode="json"), only)
    before = cls.parse(known)
    for key, value in (_unsaved_in(folder, int(metadata["step"])) if metadata and resumed else {}).items():
        *tables, name = key.split(".")
        place = known
        for table in tables:
            place = place.setdefault(table, {})
        place[name] = value
    base = cls.parse(known, where).model_dump(mode="json")
    if resumed and (doubt := compare_config_file(policy, cls, folder, base)):
        say(doubt)
    return Recorded(checkpoint, base, before)


def config_of(
    cls: type[Config], metadata: Mapping[str, Any] | None, where: str = "the config in the checkpoint"
) -> dict[str, Any] | None:
    """The config in a checkpoint's metadata, as tables; None where it has none, as one from before this was recorded.

    Raises:
        UserError: when it is not one of this app.
    """
    known = metadata.get("config") if metadata else None
    if not metadata or not known:
        return None
    today = upgraded(known, int(metadata.get("format", 1)))
    return cls.parse(today, where).model_dump(mode="json")


def compare_config_file(policy: Policy, cls: type[Config], folder: RunFolder, config: Mapping[str, Any]) -> str | None:
    """Compare config.toml with `config`, as `recorded` gives it; return a line on the keys that differ."""
    try:
        said = values_of(folder.read_config(cls))
    except UserError as error:
        return f"{error}; the config in the checkpoint is used"
    wrong = [c for c in differences(flat(config), said) if policy.of(c.key) != "call"]
    if not wrong:
        return None
    named = [f"{c.key} {_shown(c.new)} instead of {_shown(c.old)}" for c in wrong[:_MOST]]
    more = [f"{len(wrong) - _MOST} more"] * (len(wrong) > _MOST)
    return (
        f"{folder.config} differs from what the run was trained with ({', '.join(named + more)}), and is not used;"
        " to change a run, give flags"
    )


def rate_change(before: ScheduleConfig, now: ScheduleConfig, step: int, last: int) -> str | None:
    """Line on how a resume after `step` changes the learning rate; None where it is as it would have been."""
    was, would, then = (
        learning_rate(before, max(step, 1)),
        learning_rate(before, step + 1),
        learning_rate(now, step + 1),
    )
    unchanged = then == would and (now.kind not in DECAYING or (before == now and last <= now.max_steps))
    if unchanged or not step:
        return None
    end = f", {learning_rate(now, last):.3g} at step {last}" if last > step + 1 else ""
    return f"learning rate: {was:.3g} at step {step}, {then:.3g} at step {step + 1}{end}"


def unsaved(records: Sequence[Mapping[str, Any]], step: int) -> dict[str, Any]:
    """Changes by the last resume of a log, if the checkpoint of `step` does not have them yet: dotted keys."""
    later = [record for record in records if record.get("kind") == RESUME and record["step"] >= step]
    # Settings last: of a key that names data, `changed` has the hash, and `settings` the path.
    groups = [later[-1].get(name) for name in ("changed", "settings")] if later else []
    pairs = {key: pair for group in groups if isinstance(group, dict) for key, pair in group.items()}
    return {key: pair[1] for key, pair in pairs.items() if isinstance(pair, list) and len(pair) == 2}


def _unsaved_in(folder: RunFolder, step: int) -> dict[str, Any]:
    try:
        return unsaved(read_records(folder.metrics), step)
    except OSError:  # there is none, or whoever writes to it says what is wrong
        return {}


def _refuse(changes: Sequence[Change], advice: str) -> None:
    if changes:
        said = "; ".join(f"{c.key} is {_shown(c.old)} in the run and {_shown(c.new)} here" for c in changes)
        raise UserError(f"{said}: {advice}")


def _shown(value: Any) -> str:
    if value is None or value in ("", []):
        return "none"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
