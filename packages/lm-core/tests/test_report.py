import base64
import html
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.config import AdamWConfig
from lm_core.errors import UserError
from lm_core.report import read_run, write_report
from lm_core.run.about import About, optimizer_line
from lm_core.run.checkpoint import Checkpoints

Line = dict[str, Any] | str
MakeRun = Callable[..., Path]
drawn = pytest.mark.usefixtures("drawn")


def train(step: int, **keys: Any) -> dict[str, Any]:
    """A training record; `keys` replace or add, and None takes away."""
    nats = 1.5 + 3 / step
    record = {
        "kind": "train",
        "step": step,
        "loss_nats": nats,
        "bits_per_char": nats / math.log(2),
        "lr": 3e-4,
        "grad_norm": 0.5 + 1 / step,
        "tokens_per_second": 50_000.0 + step,
        "seconds": step / 10,
    } | keys
    return {key: value for key, value in record.items() if value is not None}


def evaluation(step: int, nats: float, **keys: Any) -> dict[str, Any]:
    return {"kind": "eval", "step": step, "loss_nats": nats, "bits_per_char": nats / math.log(2)} | keys


def a_run() -> list[Line]:
    return [*map(train, range(1, 41)), evaluation(10, 2.0), evaluation(20, 1.25), evaluation(40, 1.75)]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(lines: list[Line], sample: str | None = "Once", config: str = "seed = 1\n", name: str = "run") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        (folder / "metrics.jsonl").write_text(text)
        (folder / "config.toml").write_text(config)
        if sample is not None:
            (folder / "samples.txt").write_text(sample)
        return folder

    return make


def report(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def pictures(page: str) -> list[str]:
    return [base64.b64decode(data).decode() for data in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)]


def words(page: str) -> str:
    """The page without its pictures' data."""
    return re.sub(r"base64,[^\"]+", "", page)


def captions(page: str) -> list[str]:
    return re.findall(r"<figcaption>(.*?) <small>", page)


def cells(page: str) -> Iterator[list[str]]:
    for row in re.findall(r"<tr>(.*?)</tr>", page):
        yield [html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", row)]


@drawn
def test_page_loads_nothing(make_run: MakeRun) -> None:
    page = report(make_run(a_run()))
    sources = re.findall(r"""\b(?:src|srcset|href|action|data)\s*=\s*["']?([^"'>\s]{1,20})""", page)
    assert sources
    assert all(source.startswith("data:image/svg+xml") for source in sources)
    assert "<script" not in page
    assert "<link" not in page
    assert "@import" not in page
    assert "url(" not in page
    for picture in pictures(page):
        assert not re.search(r"(?:href|src)=\"(?!#|data:)", picture)
        assert not re.search(r"url\((?!#)", picture)


def test_text_from_files_cannot_become_markup(make_run: MakeRun) -> None:
    attack = '</pre><script>alert("1")</script>&amp;'
    lines = [train(step, beta2={attack: 0.9, "$\\frac{$": 0.8}) for step in (1, 2)]
    page = report(make_run(lines, sample=attack, config=attack, name="run <b>&"))
    assert "<script" not in page
    assert page.count(html.escape(attack)) == 2
    assert "<h1>run &lt;b&gt;&amp;</h1>" in page


def test_text_survives_as_written(make_run: MakeRun) -> None:
    """The line break after <pre> is HTML's; all that follows is the file's, empty lines included."""
    assert "<pre>\n\n\n  two lines down é</pre>" in report(make_run(a_run(), sample="\n\n  two lines down é"))


@drawn
def test_same_folder_gives_the_same_bytes(make_run: MakeRun) -> None:
    folder = make_run(a_run())
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


@drawn
def test_same_folder_gives_the_same_bytes_in_another_process(make_run: MakeRun) -> None:
    folder = make_run([train(step, beta2={f"b{i}": 0.9 for i in range(9)}) for step in (1, 2)])
    here = write_report(folder).read_bytes()
    code = f"from pathlib import Path; from lm_core.report import write_report; write_report(Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (folder / "report.html").read_bytes() == here


def test_missing_sample_leaves_its_section_out(make_run: MakeRun) -> None:
    page = report(make_run(a_run(), sample=None))
    assert "<h2>Sample" not in page
    assert "<h2>Config" in page


def test_sample_cut_inside_a_character_is_shown(make_run: MakeRun) -> None:
    folder = make_run(a_run())
    (folder / "samples.txt").write_bytes(b"Once \xc3")
    assert "<pre>\nOnce \ufffd</pre>" in report(folder)


def test_summary(make_run: MakeRun) -> None:
    rows = list(cells(report(make_run(a_run()))))
    assert ["Steps", "40"] in rows
    assert ["Training time", "0:00:04"] in rows
    assert ["Median tokens/s", "50,020"] in rows
    assert ["validation, first", "2.0000", "2.8854", "10"] in rows
    assert ["validation, best", "1.2500", "1.8034", "20"] in rows
    assert ["validation, last", "1.7500", "2.5247", "40"] in rows


def test_run_without_validation(make_run: MakeRun) -> None:
    page = report(make_run([train(step) for step in (1, 2, 3)]))
    assert "validation" not in words(page)
    assert ["training, last", "2.5000", "3.6067", "3"] in list(cells(page))


def test_run_with_validation_alone(make_run: MakeRun) -> None:
    assert captions(report(make_run([evaluation(10, 2.0)]))) == ["Loss"]


def test_optimizer_without_buckets_has_no_bucket_figures(make_run: MakeRun) -> None:
    assert captions(report(make_run(a_run()))) == ["Loss", "Tokens per second", "Learning rate", "Gradient norm"]


@drawn
@pytest.mark.parametrize("count", [1, 3, 100])
def test_buckets(make_run: MakeRun, count: int) -> None:
    names = [f"blocks.{i}.attn.q_proj" for i in range(count)]
    lines: list[Line] = [
        train(step, beta2=dict.fromkeys(names, 0.95), sunspike=dict.fromkeys(names, step / 50)) for step in range(1, 50)
    ]
    page = report(make_run(lines))
    assert captions(page)[-2:] == ["beta2", "Sunspike"]
    assert len(page) < 1_000_000


@drawn
def test_bucket_that_comes_and_goes(make_run: MakeRun) -> None:
    folder = make_run([train(1, beta2={"a": 0.9}), train(2, beta2={"b": 0.95}), train(3, beta2={}), train(4)])
    assert "nan" not in words(report(folder))


@drawn
def test_page_stays_small_however_long_the_run(make_run: MakeRun) -> None:
    def noisy(step: int) -> Line:
        noise = 1 + step * 7919 % 1000 / 1000
        return train(step, loss_nats=noise, grad_norm=noise, tokens_per_second=noise, beta2=noise, sunspike=noise)

    assert len(report(make_run([noisy(step) for step in range(1, 20_001)]))) < 700_000


def test_every_figure_is_told_in_words(make_run: MakeRun) -> None:
    page = report(make_run(a_run()))
    images = re.findall(r"<img [^>]*>", page)
    assert len(images) == len(captions(page))
    assert all(re.search(r'alt="[^"]*\bfrom \d[^"]*at step 1 to \d', image) for image in images)


@drawn
def test_single_record_is_drawn_as_a_point(make_run: MakeRun) -> None:
    assert all("fill: #1d4ed8" in picture for picture in pictures(report(make_run([train(1)]))))
    assert not any("fill: #1d4ed8" in picture for picture in pictures(report(make_run(a_run(), name="longer"))))


@pytest.mark.parametrize("unit", ["bits_per_byte", "bits_per_token"])
def test_unit_is_the_records(make_run: MakeRun, unit: str) -> None:
    lines = [train(step, bits_per_char=None) | {unit: 0.9} for step in (1, 2)]
    assert ["Loss", "nats", unit.replace("_", " "), "step"] in list(cells(report(make_run(lines))))


def test_bits_per_byte_comes_before_other_units_whatever_their_order(make_run: MakeRun) -> None:
    lines = [evaluation(step, 2.0, bits_per_byte=0.7) for step in (1, 2)]
    assert ["validation, best", "2.0000", "0.7000", "1"] in list(cells(report(make_run(lines))))


def test_utilization_perplexity_and_norms_are_shown(make_run: MakeRun) -> None:
    norms = {"weight_norm": {"embed": 3.0, "blocks.0": 2.0}, "activation_rms": {"blocks.0": 1.0}}
    lines: list[Line] = [train(step, mfu=0.4123, **norms) for step in (1, 2, 3)]
    page = report(make_run([*lines, evaluation(2, 2.0, perplexity=1234.5), evaluation(3, 3.0, perplexity=9999.0)]))
    assert captions(page)[-3:] == ["Model FLOPs utilization", "Weight norm", "Activation RMS"]
    assert ["Median model FLOPs utilization", "41.2%"] in list(cells(page))
    assert ["Perplexity, best", "1,234.50"] in list(cells(page))


@pytest.mark.parametrize(
    "torn", ['{"kind":"train","st', '{"kind":"tra{"kind":"eval","step":1}', "\x00\x00", "3", "[]", "\n"]
)
def test_torn_line_is_passed_over(make_run: MakeRun, torn: str) -> None:
    assert len(read_run(make_run([train(1), torn, train(2), torn]) / "metrics.jsonl").train) == 2


def test_torn_character_is_passed_over(make_run: MakeRun) -> None:
    path = make_run([train(1)]) / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'\n{"kind":"train","note":"\xc3')
    assert len(read_run(path).train) == 1


def test_missing_keys_leave_their_figure_out(make_run: MakeRun) -> None:
    page = report(
        make_run(
            [{"kind": "train", "step": 1, "lr": 0.1, "unknown": [1]}, {"kind": "train"}, {"kind": ["eval"], "step": 1}]
        )
    )
    assert captions(page) == ["Learning rate"]


@drawn
def test_numbers_that_are_not_finite_are_passed_over(make_run: MakeRun) -> None:
    wild = {
        "loss_nats": math.nan,
        "grad_norm": math.inf,
        "beta2": {"a": math.nan},
        "lr": None,
        "tokens_per_second": "fast",
    }
    page = report(make_run([train(1), train(2, **wild), evaluation(2, math.nan), evaluation(3, 1.0)]))
    assert not re.search(r"\b(nan|inf)\b", words(page), re.IGNORECASE)
    assert ["validation, first", "1.0000", "1.4427", "3"] in list(cells(page))


@drawn
@pytest.mark.parametrize("value", [0, 0.0, -1.0, 1e-30, 1e30])
def test_constant_curves_are_drawn(make_run: MakeRun, value: float) -> None:
    flat = dict.fromkeys(("loss_nats", "bits_per_char", "lr", "grad_norm", "tokens_per_second"), value)
    assert len(captions(report(make_run([train(1, **flat), train(2, **flat)])))) == 4


def test_resumed_run_counts_each_step_once(make_run: MakeRun) -> None:
    """Steps 3 and 4 were trained twice: killed after 4, resumed from the checkpoint of step 2."""
    before = [train(step, seconds=1000.0 * step) for step in (1, 2, 3, 4)]
    after = [train(step, seconds=1001.0 * step, loss_nats=1.0) for step in (3, 4, 5)]
    folder = make_run([*before, *after])
    run = read_run(folder / "metrics.jsonl")
    assert [record["step"] for record in run.train] == [1, 2, 3, 4, 5]
    assert [record["loss_nats"] for record in run.train[2:]] == [1.0, 1.0, 1.0]
    page = report(folder)
    assert ["Training time", "1:23:25"] in list(cells(page))


def test_missing_metrics_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.jsonl: no such file"):
        write_report(tmp_path)


@pytest.mark.parametrize("lines", [[], [{"kind": "note", "step": 1}], [{"kind": "train"}], ['{"kind":"train","st']])
def test_metrics_without_a_record_is_one_clear_line(make_run: MakeRun, lines: list[Line]) -> None:
    folder = make_run(lines)
    with pytest.raises(UserError, match=r"metrics\.jsonl: no training or validation record"):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_report_replaces_the_old_one_and_leaves_nothing_beside(make_run: MakeRun) -> None:
    folder = make_run(a_run())
    (folder / "report.html").write_text("old")
    (folder / f".report.html.{16 * '0'}.new").write_text("left by a run that was killed here")
    assert write_report(folder) == folder / "report.html"
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.toml",
        "metrics.jsonl",
        "report.html",
        "samples.txt",
    ]


def test_old_report_stays_when_the_new_one_fails(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(a_run())
    (folder / "report.html").write_text("old")

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_report(folder)
    assert (folder / "report.html").read_text() == "old"


def loaded_after(code: str) -> bool:
    """Whether matplotlib is loaded in a fresh process that has run `code`."""
    ask = f"import sys\n{code}\nprint('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", ask], check=True, capture_output=True, text=True)
    return done.stdout.strip() == "True"


def test_import_does_not_load_matplotlib() -> None:
    assert not loaded_after("import lm_core.report")


def test_drawing_does_load_it_but_not_pyplot(make_run: MakeRun) -> None:
    """The guard above can fail; and a report keeps no global figures."""
    folder = make_run(a_run())
    draw = f"from pathlib import Path\nfrom lm_core.report import write_report\nwrite_report(Path({str(folder)!r}))"
    assert loaded_after(f"{draw}\nassert 'matplotlib.pyplot' not in sys.modules")


def save(folder: Path, step: int, **metadata: Any) -> None:
    Checkpoints(folder / "checkpoints").save({"w": np.full(3, step, np.float32)}, {}, {"step": step, **metadata})


def test_the_steps_are_those_of_the_newest_checkpoint_and_not_of_the_last_record(make_run: MakeRun) -> None:
    folder = make_run([*map(train, (1, 20, 40, 520, 530)), evaluation(500, 1.25)])
    assert "<td>Steps</td><td>530</td>" in write_report(folder).read_text()
    save(folder, 500)
    assert "<td>Steps</td><td>530</td>" in write_report(folder).read_text()
    save(folder, 1537)
    assert "<td>Steps</td><td>1,537</td>" in write_report(folder).read_text()


def test_the_header_says_what_was_trained_with_and_on_what(make_run: MakeRun) -> None:
    about = About(
        command="uv run apps/testbed_d --text 'a & b.txt'",
        data="a & b.txt, 1,000 characters",
        parameters=4_840_000,
        optimizer=optimizer_line(AdamWConfig(weight_decay=0.1)),
        backend="torch",
        device="torch 2 on cpu, 1 threads",
        dtype="float32",
        seed=7,
    )
    folder = make_run(a_run())
    save(folder, 40, about=about.model_dump())
    page = html.unescape(write_report(folder).read_text())
    for name, value in about.rows():
        assert f"<td>{name}</td><td>{value}</td>" in page
    assert {"Command", "Data", "Parameters", "Optimizer", "Backend", "Device", "Dtype", "Seed"} == {
        name for name, _ in about.rows()
    }
    assert "4,840,000" in page
    line = "adamw, weight_decay 0.1, decay_groups matrix, grad_clip 0.0, average 0.0, beta1 0.9, beta2 0.999, eps 1e-08"
    assert line in page


@pytest.mark.parametrize("about", [{"command": "x"}, 3, None, {"command": ["<script>"]}])
def test_a_header_that_is_none_is_left_out(make_run: MakeRun, about: object) -> None:
    folder = make_run(a_run())
    save(folder, 40, about=about)
    assert 'class="about"' not in write_report(folder).read_text()


def test_what_resumes_have_changed_is_shown_with_its_step(make_run: MakeRun) -> None:
    def resume(step: int, **changed: list[Any]) -> dict[str, Any]:
        return {"kind": "resume", "step": step, "changed": changed, "settings": {"log_every": [20, 5]}}

    lines = [resume(10, lr=[3e-4, 1e-3]), resume(20, steps=[30, 50]), resume(20, steps=[30, 40], text=[None, "<b>"])]
    page = write_report(make_run([*a_run(), *lines])).read_text()
    assert "<td>from step 11</td><td>lr</td><td>0.0003 → 0.001</td>" in page
    assert "<td>from step 21</td><td>steps</td><td>30 → 40</td>" in page
    assert "<td>None → &lt;b&gt;</td>" in page
    assert "30 → 50" not in page, "the last word counts"
    assert "log_every" not in page
