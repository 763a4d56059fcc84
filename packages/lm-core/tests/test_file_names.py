"""A file's name that is not UTF-8 goes through TOML, JSON and the checks of a config, and comes back as it was."""

import json
import os
from pathlib import Path

import pytest

from lm_core.config import Config, read_toml
from lm_core.errors import UserError
from lm_core.file_names import json_text, toml_bytes, toml_document
from lm_core.run.folder import RunFolder

ODD = os.fsdecode(b"caf\xe9/\xff \xf0\x9f\x91\x8d na\xc3\xafve")


class Inner(Config):
    paths: tuple[str, ...] = ()


class Outer(Config):
    path: str = ""
    ratio: float = 1.0
    inner: Inner = Inner()


VALUES = {"path": ODD, "ratio": 2, "inner": {"paths": [ODD, "plain"]}}


def test_a_config_takes_such_a_name_and_toml_holds_it(tmp_path: Path) -> None:
    config = Outer.parse(VALUES)
    assert (config.path, config.ratio, config.inner.paths) == (ODD, 2.0, (ODD, "plain"))
    (tmp_path / "x.toml").write_bytes(toml_bytes(config.to_toml()))
    assert os.fsencode(ODD) in (tmp_path / "x.toml").read_bytes()
    assert Outer.load(tmp_path / "x.toml") == config
    RunFolder(tmp_path).prepare(config.to_toml())
    assert Outer.load(tmp_path / "config.toml") == config
    with pytest.raises(UserError, match="unknown key 'pathh'"):
        Outer.parse({"pathh": ODD})


def test_a_file_that_does_not_say_so_is_refused_and_one_without_such_names_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "latin1.toml").write_bytes(b'path = "caf\xe9"\n')
    with pytest.raises(UserError, match="it is not UTF-8 at byte 11; save it as UTF-8"):
        read_toml(tmp_path / "latin1.toml")
    assert toml_document({"a": "naïve"}) == 'a = "naïve"\n'


def test_json_holds_it_too() -> None:
    assert json.loads(json_text({"a": ODD}).encode()) == {"a": ODD}
    assert json_text({"a": "naïve"}) == '{"a": "naïve"}'
