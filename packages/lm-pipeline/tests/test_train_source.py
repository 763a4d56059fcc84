"""Text beside a run of several ranks: the first has it encoded, the others read what it writes."""

from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from lm_core.world import World
from lm_pipeline.commands import train_source
from lm_pipeline.commands.train_config import DataConfig, SourceConfig, TrainConfig
from lm_pipeline.commands.train_source import with_source

CONFIG = TrainConfig(
    source=SourceConfig(train=["text.txt"], output="shards", validation_fraction=0.1), data=DataConfig(tokenizer="tok")
)


class Second(World):
    """The second of two ranks; the first has named a tokenizer."""

    rank, size = 1, 2

    def of_first(self, make: Callable[[], Any]) -> Any:
        return "learned by the first"


@pytest.mark.parametrize("world", [World(), Second()], ids=["alone", "second"])
def test_the_first_rank_alone_has_the_text_encoded(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    started: list[Any] = []

    @contextmanager
    def making_data(job: Any) -> Any:
        started.append(job)
        yield SimpleNamespace(keep=lambda: started.append("kept"))

    monkeypatch.setattr(train_source, "making_data", making_data)
    monkeypatch.setattr(train_source, "current", lambda: world)
    with with_source(CONFIG) as (filled, keep):
        keep()
    assert (filled.data.train, filled.data.validation) == ("shards", "shards")
    assert filled.data.tokenizer == ("tok" if world.is_first else "learned by the first")
    assert len(started) == (2 if world.is_first else 0)
