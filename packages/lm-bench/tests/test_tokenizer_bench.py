"""The measurement itself, on a vocabulary and texts of a few bytes, with whatever libraries are installed."""

import json
import signal
from types import SimpleNamespace

import pytest

from lm_bench import cli, commands
from lm_bench.flags import TokenizerFlags
from lm_bench.statistics import Quartiles
from lm_bench.tokenizer import gpt2
from lm_bench.tokenizer.encoding import Encoding, SameIds
from lm_bench.tokenizer.libraries import LIBRARIES, installed
from lm_bench.tokenizer.measurement import Results, measure
from lm_bench.tokenizer.report import tokenizer_report
from lm_bench.tokenizer.starting import PYTHON
from lm_bench.tokenizer.training import Training
from lm_bench.tokenizer.worker import Server, WorkerJob
from lm_bench.tokenizer.workers import Side, Worker, WorkerError

ONES = Quartiles(1, 1, 1)
ENCODERS = [name for name, library in LIBRARIES.items() if library.encodes and library.gpt2]


@pytest.fixture
def files(tmp_path):
    """Flags that name a tiny vocabulary and a tiny corpus."""
    merges = ["t h", "th e", "Ġ the"]
    tokens = [*gpt2._BYTE_OF, "th", "the", "Ġthe", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), "utf-8")
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), "utf-8")
    lines = (f"the {i}th line, and the same in 中文: 第{i}行 <|endoftext|>\n" for i in range(200))
    (tmp_path / "corpus.txt").write_text("".join(lines), "utf-8")
    return {
        "corpora": (str(tmp_path / "corpus.txt"),),
        "vocab_json": str(tmp_path / "vocab.json"),
        "merges": str(tmp_path / "merges.txt"),
        "slow_size": 4000,
        "rounds": 1,
        "train_rounds": 1,
        "train_size": 300,
        "threads": (2,),
    }


class Here:
    """A worker without a process."""

    def __init__(self, side, models):
        self.server = Server(WorkerJob(library=side.library, threads=side.threads, models=models))

    def ask(self, do, timeout=None, **arguments):
        return getattr(self.server, do)(**arguments)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def measured(files, monkeypatch):
    """Measures parts for one library, or a few, in this process."""
    for module in ("workers", "training", "encoding", "corpus"):
        monkeypatch.setattr(f"lm_bench.tokenizer.{module}.Worker", Here)
    monkeypatch.setattr("lm_bench.tokenizer.scaling.LENGTH", 10_000)
    monkeypatch.setattr("lm_bench.tokenizer.worker.gc", SimpleNamespace(collect=lambda: None))  # walks all of torch

    def of(names, *parts):
        for name in (asked := names.split()):
            if not installed(name):
                pytest.skip(f"{name} is not installed")
        monkeypatch.setattr("lm_bench.tokenizer.measurement.installed", lambda other: other in asked)
        results = measure(TokenizerFlags(**files, parts=parts), lambda _: None)
        assert results.failed == []
        return results

    return of


@pytest.mark.parametrize("name", ENCODERS)
def test_encoding_and_decoding_give_the_text_back(name, measured):
    results = measured(name, "encode", "decode")
    assert {row.library for row in results.encode} == {name}
    assert all(row.cold_mb_per_second.median > 0 for row in results.encode)
    assert [row.difference for row in results.same_ids] == [""] * len(results.encode)
    assert all(row.tokens > 1000 for row in results.same_ids)
    assert all(row.equal for row in results.decode)


def test_ratios_are_against_the_first_and_ids_are_compared_with_its(measured):
    results = measured("tiktoken tokenizers", "encode")
    first, other = results.encode
    assert (first.library, first.cold_ratio, first.warm_ratio) == ("tiktoken", None, None)
    assert other.cold_ratio.median > 0
    assert [row.difference for row in results.same_ids] == ["", ""]
    assert "ours" in results.missing


@pytest.mark.parametrize("name", [name for name, library in LIBRARIES.items() if library.trains and library.gpt2])
def test_training_tells_time_memory_and_merges(name, measured):
    results = measured(name, "train")
    [row] = results.train
    assert row.seconds.median > 0
    assert row.peak_mib >= row.imported_mib > 0
    assert row.merges == "44"


def test_a_new_process_starts_and_a_prompt_is_timed(measured):
    alone, row = measured("tokenizers", "start").start
    assert [alone.library, row.library] == [PYTHON, "tokenizers"]
    assert alone.seconds.median > 0
    assert row.seconds.median > 0
    assert alone.prompt_ns is None
    assert row.prompt_ns.median > 0


@pytest.mark.parametrize("name", ENCODERS)
def test_the_program_of_a_start_reads_gpt2_and_encodes(name, files, tmp_path):
    if not installed(name):
        pytest.skip(f"{name} is not installed")
    models = gpt2.convert(files["vocab_json"], files["merges"], tmp_path)
    exec(LIBRARIES[name].start_code(models), {"prompt": "the 1st line"})


@pytest.mark.parametrize("name", ["ours", "gigatoken"])
def test_length_and_pathological_texts(name, measured):
    results = measured(name, "linear", "pathological")
    assert [row.text for row in results.linear] == ["all"]
    texts = [row.text for row in results.pathological]
    assert texts == ["ordinary", "letter", "space", "emoji", "newline"]


def test_a_worker_that_fails_or_hangs_is_named():
    name = next((name for name in ENCODERS if installed(name)), None)
    if name is None:
        pytest.skip("no library is installed")
    with Worker(Side(name, 1), gpt2.Models("nowhere", "nowhere", "nowhere", "nowhere")) as worker:
        with pytest.raises(WorkerError, match="renew: "):
            worker.ask("renew")
        worker.process.send_signal(signal.SIGSTOP)  # it never answers
        with pytest.raises(WorkerError, match=r"over 0\.01 s"):
            worker.ask("train", 0.01, path="nowhere", vocab_size=300, out="nowhere", warmup="nowhere")


def test_the_report_has_a_table_for_each_part_and_says_what_is_missing():
    results = Results("gigatoken", ["ours"])
    results.encode = [
        Encoding("c", "gigatoken", 1, 10**8, ONES, ONES, None, None),
        Encoding("c", "sentencepiece", 1, 10**7, ONES, ONES, ONES, ONES),
    ]
    results.same_ids = [SameIds("c", "gigatoken", 1, 5, ""), SameIds("c", "tiktoken", 2, 5, "token 1 is 2 and not 3")]
    results.train = [
        Training("c", "gigatoken", 2, 10**8, ONES, None, 300.0, 100.0, 0.5, "31,744"),
        Training("c", "sentencepiece", 2, 10**8, None, None, 0, 0, 0, "over 900 s"),
    ]
    report = tokenizer_report(results, TokenizerFlags())
    assert "not installed: ours" in report
    assert "below 1, gigatoken is faster" in report
    assert "1.00 (1.00-1.00)" in report
    assert "NOT the same ids: c: tiktoken, 2 threads: token 1 is 2 and not 3" in report
    assert "over 900 s" in report
    assert report.count("sentencepiece: its own split") == 1
    assert "decode:" not in report


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "no corpus"),
        (["--corpora", "nowhere.txt", "--parts", "train"], "cannot read nowhere.txt"),
        (["--corpora", "nowhere.txt"], "GPT-2's files"),
        (["--parts", "sleep"], "sleep"),
        (["--peers", "minbpe"], "minbpe"),
    ],
)
def test_a_mistake_is_one_line(monkeypatch, capsys, argv, complaint):
    monkeypatch.setattr("sys.argv", ["lm-bench", "tokenizer", *argv])
    monkeypatch.setattr("lm_bench.tokenizer.measurement.installed", lambda name: True)
    assert cli.main() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err
    assert err.count("\n") == 1


def test_json_is_all_there_is_on_stdout(monkeypatch, capsys):
    monkeypatch.setattr(commands, "measure_tokenizers", lambda flags, say: Results("ours", ["rustbpe"]))
    cli.run(["tokenizer", "--json", "--corpora", "c.txt"])
    record = json.loads(capsys.readouterr().out)
    assert record["command"] == "tokenizer"
    assert record["flags"]["corpora"] == ["c.txt"]
    assert record["results"]["missing"] == ["rustbpe"]
