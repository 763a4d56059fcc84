"""Training on a stream of shards: the same batches while it is written, within documents if asked, resumed exactly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.data import shards
from lm_core.data.batches import Origin, Resumable
from lm_core.data.shards import locked
from lm_core.errors import UserError
from lm_core.run.plan import Plan
from lm_pipeline.commands import make_data
from lm_pipeline.tokens import units
from lm_pipeline.tokens.config import MakeDataConfig
from lm_tokenizer import Tokenizer

END = "<|endoftext|>"
Planned = Callable[..., Plan]
SMALL = ["--model.seq_len", "16", "--model.d_model", "32", "--model.n_heads", "2", "--model.n_layers", "1"]
DATA = ["--data.train", "shards", "--data.validation", "shards", "--data.tokenizer", "tok", "--save_dir", "run"]
FLAGS = (*DATA, *SMALL, "--training.batch_size", "4", "--data.shuffle_block", "8", "--training.sample_tokens", "0")


def config(output: str = "shards", **more: object) -> MakeDataConfig:
    fixed: dict[str, Any] = {"train": ["all.txt"], "tokenizer": "tok", "separator": END, "validation_fraction": 0.2}
    values = {"shards": True, "shard_bytes": 900, "threads": 1, "output": output}
    return MakeDataConfig.parse({**fixed, **values, **more})


@pytest.fixture
def corpus(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder / "all.txt").write_text(END.join(f"Document {i}: it's naïve {i * i}\n" * (1 + i % 7) for i in range(60)))
    monkeypatch.setattr(shards, "POLL_SECONDS", 0.001)
    return folder


def test_a_run_that_begins_with_the_first_shards_has_the_batches_of_one_that_waits(
    corpus: Path, planned: Planned, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    early = list[Plan]()

    def add(self: units.Parts, unit: units.Unit, of: Callable[..., None] = units.Parts.add) -> None:
        of(self, unit)
        if len(self.units) == 4 and self.folder.name == "shards":
            early.append(planned(*FLAGS, "--data.eval_tokens", "50"))
            early[0].batches.batch(1)

    monkeypatch.setattr(units.Parts, "add", add)
    make_data.make_data(config())
    late = planned(*FLAGS, "--data.eval_tokens", "50")
    assert any("shards is still being written" in note for note in early[0].notes)
    assert not late.notes
    assert early[0].training_tokens < late.training_tokens
    assert (early[0].data, early[0].metadata) == (late.data, late.metadata)
    for step in (1, 2, 30, 200):
        assert np.array_equal(early[0].batches.batch(step).targets, late.batches.batch(step).targets)
    assert [batch.targets.tolist() for batch in early[0].evaluation] == [b.targets.tolist() for b in late.evaluation]
    assert sum(batch.tokens for batch in late.evaluation) == 50


def test_segments_divide_documents_in_training_and_validation(
    corpus: Path, planned: Planned, tokenizer: Tokenizer
) -> None:
    make_data.make_data(config())
    make_data.make_data(config("files", shards=False))
    of_files = ("--data.train", "files/train.npy", "--data.validation", "files/validation.npy")
    for flags in (FLAGS, (*FLAGS, *of_files), (*FLAGS, *of_files, "--data.order", "random")):
        plan, plain = planned(*flags, "--data.segments"), planned(*flags)
        for batch, same in ((plan.batches.batch(3), plain.batches.batch(3)), (plan.evaluation[1], plain.evaluation[1])):
            assert np.array_equal(batch.inputs, same.inputs)
            assert batch.segments is not None
            assert same.segments is None
            assert (np.diff(batch.segments) == (batch.inputs[:, :-1] == tokenizer.eos_id)).all()
        assert len(plan.evaluation) == len(plain.evaluation)


def test_a_resume_at_another_batch_size_reads_on_in_the_stream(
    corpus: Path, planned: Planned, save_run: Callable[..., Any]
) -> None:
    make_data.make_data(config())
    begun = planned(*FLAGS, "--data.segments")
    save_run(begun, 3)
    plan = planned("--resume", "--save_dir", "run", "--training.batch_size", "6")
    assert isinstance(plan.batches, Resumable)
    assert plan.batches.origin == Origin(3, 12)
    one_by_one = planned(*FLAGS, "--training.batch_size", "1", "--save_dir", "other")
    expected = np.concatenate([one_by_one.batches.batch(i).inputs for i in range(13, 19)])
    assert np.array_equal(plan.batches.batch(4).inputs, expected)
    assert plan.batches.batch(4).segments is not None
    with pytest.raises(UserError, match=r"data\.segments"):
        planned("--resume", "--save_dir", "run", "--data.no_segments")


def test_a_resume_on_another_stream_says_so_and_starts_it(
    corpus: Path, planned: Planned, save_run: Callable[..., Any]
) -> None:
    make_data.make_data(config())
    make_data.make_data(config("other", seed=5))
    save_run(planned(*FLAGS), 3)
    plan = planned("--resume", "--save_dir", "run", "--data.train", "other", "--data.validation", "shards")
    assert "note: data.train holds other data than the run was trained on" in plan.notes
    assert isinstance(plan.batches, Resumable)
    assert plan.batches.origin == Origin(3, 0)


def test_a_stream_that_is_still_written_must_say_how_much_of_it_is_evaluated(corpus: Path, planned: Planned) -> None:
    make_data.make_data(config())
    (corpus / "shards/stream.json").unlink()
    with locked(corpus / "shards"), pytest.raises(UserError, match="is still being written: set data"):
        planned(*FLAGS)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--data.order", "random"], 'data.order: a stream of shards is "shuffled", in blocks; "random" takes one'),
        (["--data.train", "."], r"data\.train: there are no token shards in \.: make it with transformerlm-make-data"),
        (["--data.train", "none"], r"data\.train: there is no token file none: make it with"),
        (["--model.seq_len", "9999"], r"data\.train: .* tokens are too few for windows of 9999 .* smaller model\.seq"),
    ],
)
def test_what_does_not_fit_a_stream_is_one_line(corpus: Path, planned: Planned, flags: list[str], said: str) -> None:
    make_data.make_data(config())
    with pytest.raises(UserError, match=said):
        planned(*FLAGS, *flags)


def test_a_bad_shard_ends_a_run_unless_it_is_skipped(
    corpus: Path, planned: Planned, capsys: pytest.CaptureFixture[str]
) -> None:
    make_data.make_data(config())
    shard = corpus / "shards/000003.train.npy"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(
        UserError, match=r"000003.train.npy has .* it is cut; rebuild it; to train without it, set skip"
    ):
        planned(*FLAGS).batches.batch(100)
    planned(*FLAGS, "--data.skip_bad_shards").batches.batch(100)
    assert "warning: skipped a shard" in capsys.readouterr().err


def test_segments_need_an_end_of_text(corpus: Path, planned: Planned) -> None:
    Tokenizer.train(["all.txt"], 280, progress=False).save(corpus / "plain")
    make_data.make_data(config(tokenizer="plain", eos_between_documents=False))
    with pytest.raises(UserError, match=r"data\.segments: the tokenizer has no end-of-text token"):
        planned(*FLAGS, "--data.tokenizer", "plain", "--data.segments")
