"""Hidden differences: what differs between the resolved configs of two arms beyond the fields that make them arms.

A difference is named by an arm when one of its fields, or a tuned one, ends in the same word (`adam_beta2` and
`optimizer.beta2`), or when the study expects it. Keys that one arm's optimizer has and another's lacks belong to the
choice of the optimizer. All else is an alarm: such a difference may be the whole result.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lm_bench.study.config import StudyConfig
from lm_bench.study.plan import resolved
from lm_core.run.plan import Plan

_CHOICE = "optimizer.name"


@dataclass(frozen=True)
class Difference:
    """One key of the resolved config that is not alike in all arms."""

    key: str
    values: dict[str, Any]
    """Arm -> value; an arm whose optimizer has no such key is not in it."""
    alarm: bool
    """Whether nothing in the study says that it is meant."""

    @property
    def line(self) -> str:
        """The alarm, in words."""
        values = ", ".join(f"{arm} {value}" for arm, value in self.values.items())
        return f"{self.key} differs, and no field of the arms names it: {values}; add it to expected if it is meant"


def differences(study: StudyConfig, plans: Mapping[str, Plan]) -> list[Difference]:
    """All keys that differ, in the order of the config; alarms among them."""
    arms = {arm: resolved(plan) for arm, plan in plans.items()}
    found = []
    for key in dict.fromkeys(key for values in arms.values() for key in values):
        values = {arm: table[key] for arm, table in arms.items() if key in table}
        distinct = {repr(value) for value in values.values()}
        if len(distinct) > 1 or len(values) < len(arms):
            meant = len(distinct) < 2 or key == _CHOICE or key in study.expected or _is_named(key, _own(study))
            found.append(Difference(key, values, not meant))
    return found


def _own(study: StudyConfig) -> Iterable[str]:
    """Fields that make the arms; of those that all arms set alike none does."""
    yield from study.tuned
    for key in dict.fromkeys(key for fields in study.arms.values() for key in fields):
        if len({repr(fields.get(key)) for fields in study.arms.values()}) > 1:
            yield key


def _is_named(key: str, own: Iterable[str]) -> bool:
    word = key.rpartition(".")[2]
    return any(field == key or _ends_in(field.rpartition(".")[2], word) for field in own)


def _ends_in(field: str, word: str) -> bool:
    return f"_{field}".endswith(f"_{word}") or f"_{word}".endswith(f"_{field}")
