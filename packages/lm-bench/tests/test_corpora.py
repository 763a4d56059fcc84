"""A corpus out of texts at hand."""

import pytest

from lm_bench.cli import run
from lm_bench.corpora import Account, build, cut, paragraphs, strip_html
from lm_core.errors import UserError

LONG = "A paragraph that is long enough to be recognized when it comes a second time in another file."


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text(f"{LONG}\n\nonly in a\n")
    (folder / "deep" / "b.md").write_text(f"only in b\n\n{LONG}\n")
    (folder / "copy.txt").write_bytes((folder / "a.txt").read_bytes())
    (folder / "latin.txt").write_bytes("naïve".encode("latin-1"))
    (folder / "page.html").write_text("<head><title>t</title></head><p>a &amp; b</p><script>x()</script>")
    (folder / "c.bin").write_text("another kind of file")
    return folder


def built(tmp_path, *sources, size=10**6, suffixes=(".txt", ".md", ".html")):
    account = build(tmp_path / "corpus", size, sources, suffixes)
    return (tmp_path / "corpus").read_text(), account


def test_nothing_is_in_it_twice_and_what_is_left_out_is_counted(tmp_path, texts):
    corpus, account = built(tmp_path, texts)
    assert corpus.count(LONG) == 1
    assert all(words in corpus for words in ("only in a", "only in b", "a & b"))
    assert all(words not in corpus for words in ("title", "x()", "another kind", "na"))
    assert account == Account(files=3, copies=1, not_utf8=1, paragraphs_dropped=1, size=len(corpus))


def test_names_and_order_of_the_files_do_not_matter(tmp_path, texts):
    before, _ = built(tmp_path, texts)
    (texts / "a.txt").rename(texts / "zzz.txt")
    (texts / "copy.txt").unlink()
    after, _ = built(tmp_path, texts / "zzz.txt", texts)
    named_first, _ = built(tmp_path, texts, texts / "zzz.txt")
    assert after == named_first
    assert before.split() != []
    assert sorted(before.split()) == sorted(after.split())


def test_a_named_file_is_in_a_corpus_that_has_no_room_for_all(tmp_path, texts):
    for i in range(20):
        (texts / f"{i}.txt").write_text(f"file number {i}\n")
    named = tmp_path / "named"
    named.write_text("N" * 40 + "\n")
    corpus, account = built(tmp_path, texts, named, size=120)
    assert "N" * 40 in corpus or account.files < 4
    assert len(corpus) <= 120
    assert corpus.endswith("\n")


def test_the_cut_is_at_a_line_end():
    assert cut("ab\ncdé\nf".encode(), 5) == b"ab\n"
    assert cut(b"ab\n", 5) == b"ab\n"


def test_paragraphs_are_parted_by_empty_lines():
    assert list(paragraphs("\n\n  a\r\nb  \n \n\nc")) == [b"  a\nb", b"c"]


def test_html_keeps_words_and_line_ends():
    page = "<html><head><style>p{}</style></head><!-- no --><header>x</header><p>1 &lt; 2<br>b<i>c</i></p></html>"
    assert strip_html(page).split("\n") == ["x", "1 < 2", "bc", ""]


def test_a_source_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        build(tmp_path / "corpus", 10, [tmp_path / "nowhere"], [".txt"])


def test_sources_without_text_are_one_line(tmp_path):
    with pytest.raises(UserError, match="no text"):
        build(tmp_path / "corpus", 10, [tmp_path], [".txt"])
    assert not (tmp_path / "corpus").exists()


def test_the_command_says_what_became_of_the_sources(tmp_path, texts, capsys):
    run(
        ["corpus", "--out", str(tmp_path / "c"), "--size", "1000", "--sources", str(texts), "--suffixes", ".txt", ".md"]
    )
    assert "from 2 files (skipped: 1 copies, 1 not UTF-8, 1 repeated paragraphs)" in capsys.readouterr().out
