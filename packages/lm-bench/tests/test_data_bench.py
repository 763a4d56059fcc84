import os

import pytest

from lm_bench.cli import run
from lm_bench.data import EOT, measure, one_core, write_sources
from lm_core.errors import UserError
from lm_pipeline.tokens.config import MakeDataConfig
from lm_pipeline.tokens.encoding import batches
from lm_pipeline.tokens.job import plan
from lm_pipeline.tokens.tokenizers import load_tokenizer
from lm_pipeline.tokens.units import Progress
from lm_tokenizer import Tokenizer

SENTENCE = "The quick brown fox jumps over the lazy dog; 日本語 too.\n"


def test_every_source_holds_the_same_documents(tmp_path):
    documents = [SENTENCE * n for n in (1, 5, 2)]
    sources = write_sources(documents, tmp_path)
    Tokenizer.train([SENTENCE], vocab_size=300, special_tokens=[EOT]).save(tmp_path / "tokenizer")
    for source, place in sources.items():
        config = MakeDataConfig(
            train=(place,), tokenizer=str(tmp_path / "tokenizer"), output=str(tmp_path / "o"), separator=EOT
        )
        read = list(batches(plan(config, load_tokenizer(config.tokenizer)), Progress()))
        assert not any(batch.flaws for batch in read)
        assert [text.decode() for batch in read for text in batch.texts] == documents, source


def test_each_part_of_each_source_has_a_rate(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(SENTENCE * 4000, encoding="utf-8")
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    rates = measure(text, documents=1000, vocab_size=512, rounds=1)
    assert before is None or os.sched_getaffinity(0) == before
    assert {rate.part for rate in rates} == {"read", "read, encode, write", "pack"}
    assert len({rate.tokens for rate in rates if rate.part != "pack"}) == 1, "all sources give the same ids"
    assert all(rate.tokens_per_second > 0 for rate in rates)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no processor affinity")
def test_threads_of_the_block_have_one_core():
    with one_core():
        assert len(os.sched_getaffinity(0)) == 1


def test_a_text_that_is_missing_or_too_short_is_a_clear_line(tmp_path):
    (tmp_path / "short.txt").write_text(SENTENCE)
    with pytest.raises(UserError, match="too few"):
        measure(tmp_path / "short.txt", 1000, 512, 1)
    with pytest.raises(UserError, match="--text"):
        run(["data"])
    with pytest.raises(UserError, match=r"--text .*none\.txt"):
        run(["data", "--text", str(tmp_path / "none.txt")])
