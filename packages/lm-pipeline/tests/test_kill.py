"""Killed at any moment and run again, make-data ends with the same bytes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lm_core.data.token_file import TokenFile, check_pair
from lm_core.errors import UserError
from lm_pipeline.commands import make_data
from lm_pipeline.tokens.config import MakeDataConfig
from lm_tokenizer import Tokenizer

END = "<|endoftext|>"
CALLS = [(os, "fsync"), (os, "unlink"), (os, "rmdir"), (Path, "replace"), (Path, "unlink"), (Path, "mkdir")]

MIXED: dict[str, object] = {"train": ["all.txt", "bad.jsonl"], "on_bad": "skip"}
"""A text, and lines of which most are skipped."""


def config(output: Path, **more: object) -> MakeDataConfig:
    fixed = {"train": ["all.txt"], "tokenizer": "tok", "separator": END, "validation_fraction": 0.2}
    return MakeDataConfig.parse({**fixed, "shard_bytes": 900, "threads": 1, "output": str(output), **more})


def contents(folder: Path) -> dict[str, bytes | None]:
    paths = [path for path in folder.iterdir() if path.suffix != ".toml"]
    return {path.name: path.read_bytes() if path.is_file() else None for path in paths}


def in_a_child(work: Callable[[], object]) -> int:
    """Do it in a fork of this process; the signal that ended it, or 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fork is what is wanted, threads or no threads
        child = os.fork()
    if not child:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def make_and_die(output: Path, nth: int, **more: object) -> None:
    """Make the token files, and be killed just before the `nth` call that changes what is on disk."""
    left = [nth]

    def counted(original: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        return call

    for owner, name in CALLS:
        setattr(owner, name, counted(getattr(owner, name)))
    make_data.make_data(config(output, **more))


def test_killed_before_any_call_that_writes_and_run_again_the_bytes_are_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "all.txt").write_text(END.join(f"Document {i}: it's naïve {i * i}\n" * 5 for i in range(14)))
    lines = (f'{{"text": "{i} more " }}\n{{"text": null}}\n{{' for i in range(6))
    (folder / "bad.jsonl").write_text("\n".join(lines))
    make_data.make_data(config(folder / "whole", **MIXED))
    summary = capsys.readouterr().err.splitlines()[-1]
    assert summary.startswith("skipped 12 records: 6 null in bad.jsonl (first: line 2); 6 not JSON in bad.jsonl")
    whole = contents(folder / "whole")
    assert sorted(whole) == ["train.npy", "train.npy.json", "validation.npy", "validation.npy.json"]
    kills = 0
    while in_a_child(partial(make_and_die, output := folder / f"out{kills}", kills + 1, **MIXED)):
        if kills % 4 == 0:  # and again, on what the first left
            in_a_child(partial(make_and_die, output, 9, **MIXED))
        capsys.readouterr()
        make_data.make_data(config(output, **MIXED))
        said = capsys.readouterr().err
        assert summary in said or "nothing to do" in said
        assert contents(output) == whole, f"killed before call {kills + 1}"
        kills += 1
    assert kills > 40


def test_a_pair_that_a_killed_call_replaced_in_half_is_not_taken_for_one_that_belongs_together(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "all.txt").write_text(END.join(f"Document {i}: it's naïve {i * i}\n" * 5 for i in range(20)))
    make_data.make_data(config(folder / "new"))
    make_data.make_data(config(folder / "old", seed=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_data, "join", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make_data.make_data(config(folder / "old"))  # all is encoded, nothing replaced
    old, new = contents(folder / "old"), contents(folder / "new")
    assert {".parts", *new} == set(old)
    found: list[str] = []
    while "new" not in found:
        shutil.copytree(folder / "old", output := folder / f"out{len(found)}")
        assert in_a_child(partial(make_and_die, output, len(found) + 1)) == signal.SIGKILL
        found.append(state_of_the_pair(output))
        if found[-1] not in found[:-1]:
            make_data.make_data(config(output))
            assert contents(output) == new
    assert [*dict.fromkeys(found)] == ["old", "damaged", "mixed", "new"]


def state_of_the_pair(output: Path) -> str:
    try:
        pair = [TokenFile.open(output / f"{split}.npy") for split in ("train", "validation")]
        check_pair(*pair)
    except UserError as error:
        return "mixed" if "were not made together" in str(error) else "damaged"
    return "old" if (output / "train.npy").read_bytes() == (output.parent / "old/train.npy").read_bytes() else "new"


@pytest.mark.parametrize("name", ["000001.train.npy", "000001.train.npy.json", "000001.json"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-3])])
def test_parts_that_were_damaged_in_between_are_made_again(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Callable[[Path], object]
) -> None:
    (folder / "all.txt").write_text(END.join(f"Document {i}: it's naïve {i * i}\n" * 5 for i in range(20)))
    make_data.make_data(config(folder / "whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_data, "join", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make_data.make_data(config(folder / "out"))
    assert contents(folder / "out") == {".parts": None}
    damage(folder / "out/.parts" / name)
    make_data.make_data(config(folder / "out"))
    assert "resuming after 1 finished units" in capsys.readouterr().err
    assert contents(folder / "out") == contents(folder / "whole")


@pytest.mark.slow
def test_ten_kills_at_random_instants(tmp_path: Path) -> None:
    draw = random.Random(3)
    words = [f"{draw.choice('etaoinshrdlu')}{draw.randrange(10**4):x}é" for _ in range(20_000)]
    text = END.join(" ".join(draw.choices(words, k=400)) for _ in range(20_000))
    (tmp_path / "all.txt").write_text(text)
    Tokenizer.train([text[:2_000_000]], 4000, [END], progress=False).save(tmp_path / "tok")
    flags = config(tmp_path / "out", train=[str(tmp_path / "all.txt")], tokenizer=str(tmp_path / "tok"),
                   shard_bytes=1 << 20, threads=2)  # fmt: skip
    (tmp_path / "make.toml").write_text(flags.resolved())
    program = "from lm_pipeline.commands.make_data import main; raise SystemExit(main())"
    command = [sys.executable, "-c", program, "--config", str(tmp_path / "make.toml"), "--output"]
    started = time.perf_counter()
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    seconds = time.perf_counter() - started
    kills, trials = 0, 0
    while kills < 10:
        assert (trials := trials + 1) < 200
        with (tmp_path / "said").open("wb") as said:
            process = subprocess.Popen([*command, str(tmp_path / "out")], stdout=said, stderr=said)
        try:
            process.wait(draw.uniform(0.3, 1) * seconds / 2)
        except subprocess.TimeoutExpired:
            process.kill()
            kills += process.wait() == -signal.SIGKILL and (tmp_path / "out/.parts").exists()
            continue
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")
        for path in (tmp_path / "out").iterdir():
            path.unlink()
    subprocess.run([*command, str(tmp_path / "out")], check=True, capture_output=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
