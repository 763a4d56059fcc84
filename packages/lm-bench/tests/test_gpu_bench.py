"""The GPU benchmark in its CPU form: every part runs, and one that fails ends nothing else."""

import json
import math
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

pytest.importorskip("lm_torch")

from lm_bench import cli
from lm_bench.flags import GpuFlags
from lm_bench.gpu import measurement, preparation, work
from lm_bench.gpu.jobs import Group, Job, groups_of
from lm_bench.gpu.measurement import Results, Row, measure, waves
from lm_bench.gpu.preparation import Preparation
from lm_bench.gpu.report import gpu_report
from lm_bench.gpu.room import Room, needed_bytes, resting_bytes
from lm_bench.gpu.sides import Local, Process, Report, SideError
from lm_bench.statistics import Quartiles

QUICK = {"rounds": 1, "device": "cpu"}


def measured(**flags):
    rows = []
    results = measure(GpuFlags(**{**QUICK, **flags}), "cpu", lambda _: None, rows.append)
    assert results.rows == rows, "each row is handed out as it comes"
    return {(row.part, row.side): row for row in rows}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The card's own figures take a second at their true size."""
    monkeypatch.setattr("lm_bench.peak.MATRIX_SIZE", {"cpu": 32})
    monkeypatch.setattr("lm_bench.peak.COPY_BYTES", {"cpu": 1024})


def test_every_part_runs_in_its_tiny_form():
    pytest.importorskip("transformers")
    rows = measured()
    assert {part for part, _ in rows} == {"card", "train", "decode", "testbed", "large", "bits", "gradients"}
    assert {row.side for row in rows.values() if row.figure is None} == set()
    for name in ("loop, fused AdamW", "GPT2LMHeadModel", "ours, gradient checkpointing", "ours, 4 micro-batches"):
        assert rows["train", name].note.startswith("losses within"), rows["train", name]
        assert rows["train", name].ratio is not None
    assert rows["bits", "compiled, deterministic"].note == "twice: equal, resumed: equal"
    assert rows["gradients", "largest relative error of a gradient"].figure.median < 1e-5
    for how in ("compiled, graph", "eager"):
        assert rows["decode", f"ours, {how}"].note == "8 of 8 ids before the first that differs"


def test_a_side_that_fails_says_why_and_the_others_are_measured(monkeypatch):
    whole = work.prepare

    def prepare(job):
        if job.side == "K-beta, bfloat16":
            raise MemoryError("no room")
        return whole(job)

    monkeypatch.setattr(work, "prepare", prepare)
    rows = measured(parts=("testbed",))
    assert rows["testbed", "K-beta, bfloat16"].note == "not measured: MemoryError: no room"
    assert all(row.figure for (_, side), row in rows.items() if side != "K-beta, bfloat16")


def test_what_there_is_no_time_for_is_not_measured():
    rows = measured(parts=("testbed",), budget_seconds=1)
    assert {row.note for row in rows.values()} == {"not measured: no time was left"}


class Fake:
    """A side that answers at once, or is never ready where its name is "slow"; `notes` get what happens."""

    def __init__(self, job, notes=None):
        self.job, self.notes = job, [] if notes is None else notes
        self.notes.append(("started", job.side))

    def ready(self, patience):
        self.notes.append(("patience", patience))
        if self.job.side == "slow":
            raise SideError("no answer")

    def block(self, patience):
        return Report(figure=1.0, losses=(), ids=(), note="", peak_gib=None, tf32=False)

    def profile(self, patience):
        raise SideError("no profiler")

    def end(self):
        self.notes.append(("ended", self.job.side))


def test_a_side_that_is_not_ready_leaves_time_for_the_others(monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: 0.0)  # stands still
    monkeypatch.setattr(measurement, "time", clock)
    monkeypatch.setattr(preparation, "time", clock)
    jobs = tuple(Job(side=name, kind="copy", unit="TB/s") for name in ("slow", "quick"))
    notes = []
    both = Preparation(lambda job, _: Fake(job, notes), Room(math.inf), 2)
    rows = list(measurement._measure_wave([Group("card", "two", jobs)], 1, 100.0, both, lambda _: None))
    assert [(row.side, row.note) for row in rows] == [("slow", "not measured: no answer"), ("quick", "")]
    assert rows[1].figure is not None
    expected = min(measurement.READY_SECONDS, measurement.READY_SHARE * 100)
    assert [what for word, what in notes if word == "patience"] == [expected] * 2
    assert {what for word, what in notes if word == "ended"} == {"slow", "quick"}


def test_sides_get_ready_together_only_as_far_as_the_card_has_room():
    jobs = [job for group in groups_of("cuda", ("train",)) for job in group.jobs]
    memory = 79 << 30
    lock, taken, most, preparing, together = threading.Lock(), {}, [], set(), threading.Event()

    class Weighing(Fake):
        def ready(self, patience):
            with lock:
                taken[self.job] = needed_bytes(self.job)
                preparing.add(self.job)
                most.append(sum(taken.values()))
                if len(preparing) > 1:
                    together.set()
            assert together.wait(30), "one waits for another"
            time.sleep(0.02)
            with lock:
                taken[self.job] = resting_bytes(self.job)
                preparing.remove(self.job)

    with Preparation(lambda job, _: Weighing(job), Room(memory), len(jobs)).of(jobs, 60) as sides:
        assert set(sides) == set(jobs)
    assert max(most) <= memory < sum(map(needed_bytes, jobs))


def test_a_side_that_is_not_ready_leaves_its_room():
    jobs = [Job(side=name, kind="copy", unit="TB/s") for name in ("slow", "quick")]
    room = Room(needed_bytes(jobs[0]))
    with Preparation(lambda job, _: Fake(job), room, 1).of(jobs, 60) as sides:
        assert [job.side for job in sides] == ["quick"]
    assert room.free == needed_bytes(jobs[0]) - resting_bytes(jobs[1])


def test_what_is_larger_than_the_card_is_tried_alone():
    job = Job(side="large", kind="copy", unit="TB/s")
    with Preparation(lambda job, _: Fake(job), Room(1.0), 2).of([job], 60) as sides:
        assert list(sides) == [job]


def test_an_interrupt_ends_what_gets_ready_and_starts_nothing_more(monkeypatch):
    notes, heard, handed_out, ended = [], [], threading.Event(), threading.Event()

    class Pool(ThreadPoolExecutor):
        def map(self, *arguments):
            results = super().map(*arguments)
            handed_out.set()
            return results

    class Patient(Fake):
        def ready(self, patience):
            assert handed_out.wait(30), "the main thread waits for the sides"
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # which ends its wait for a lock
            heard.append(ended.wait(30))
            raise SideError("ended")

        def end(self):
            super().end()
            ended.set()

    monkeypatch.setattr(preparation, "ThreadPoolExecutor", Pool)
    jobs = [Job(side=name, kind="copy", unit="TB/s") for name in ("first", "second", "third")]
    preparing = Preparation(lambda job, _: Patient(job, notes), Room(math.inf), 1)
    with pytest.raises(KeyboardInterrupt), preparing.of(jobs, 60):
        pass
    assert heard == [True]
    assert [name for word, name in notes if word == "started"] == ["first"]


def test_a_wave_has_no_more_sides_than_cores_or_than_the_card_holds_but_a_group_stays_whole():
    job = Job(side="x", kind="copy", unit="TB/s")
    groups = [Group("card", str(count), (job,) * count) for count in (2, 3, 9, 1, 1)]
    assert [[len(group.jobs) for group in wave] for wave in waves(groups, 5, math.inf)] == [[2, 3], [9], [1, 1]]
    assert [[len(group.jobs) for group in wave] for wave in waves(groups, 99, 4 << 30)] == [[2], [3], [9], [1, 1]]


def test_a_process_answers_as_the_job_here_does():
    """What is drawn does not depend on where."""
    job = groups_of("cpu", ("decode",))[0].jobs[0]
    here, there = Local(job), Process(job, {})
    try:
        for side in (here, there):
            side.ready(300)
        found = [side.block(300) for side in (here, there)]
    finally:
        there.end()
    assert found[0].ids == found[1].ids != ()


def test_a_process_that_fails_gives_the_end_of_its_traceback():
    side = Process(Job.model_construct(side="x", kind="sleep", unit="s"), {})
    try:
        with pytest.raises(SideError, match="kind"):
            side.ready(300)
    finally:
        side.end()


def test_peers_start_from_the_same_batches_and_sizes_on_a_card():
    groups = groups_of("cuda", ("train",))
    assert [group.jobs[0].rows for group in groups] == [16, 8, 64, 32]
    for group in groups:
        assert {(job.rows, job.length, job.steps) for job in group.jobs} == {
            (group.jobs[0].rows, 1024, group.jobs[0].steps)
        }


def test_the_report_names_what_was_left_out_and_marks_tf32():
    ones = Quartiles(1, 1, 1)
    rows = [
        Row("testbed", "Testbed D", "Adam, TF32", "steps/s", ones, None, 1.25, 3.0, True),
        Row("testbed", "Testbed D", "K-beta", "steps/s", note="not measured: no time was left"),
    ]
    text = gpu_report(Results("cpu", rows, 3.0), GpuFlags(parts=("testbed",)))
    for words in ("not measured: card, train, decode", "TF32", "1.2", "not measured: no time", "nothing about speed"):
        assert words in text


def test_rows_are_written_as_they_come(monkeypatch, capsys, tmp_path):
    out = tmp_path / "rows.jsonl"
    monkeypatch.setattr(
        sys, "argv", ["lm-bench", "gpu", "--device", "cpu", "--parts", "card", "--out", str(out), "--json"]
    )
    assert cli.main() == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["unit"] for line in lines] == ["TFLOP/s", "TB/s"]
    assert json.loads(capsys.readouterr().out)["results"]["rows"] == lines
    monkeypatch.setattr(sys, "argv", ["lm-bench", "gpu", "--out", str(tmp_path / "none" / "rows.jsonl")])
    assert cli.main() == 2


def test_a_side_that_found_no_memory_starts_over_with_its_weights(monkeypatch):
    """Not with those of the steps that it had taken by then: sides are compared by their losses."""
    [job, *_] = [j for g in groups_of("cpu", ("train",)) for j in g.jobs if j.who == "ours"]
    monkeypatch.setattr(work.time, "sleep", lambda seconds: None)
    plain = work.Training(job, "cpu").block().losses
    real, tries = work.Training._steps, []

    def steps(self, count):
        tries.append(count)
        done = real(self, count)
        if len(tries) == 1:
            raise RuntimeError("CUDA out of memory")
        return done

    monkeypatch.setattr(work.Training, "_steps", steps)
    assert work.Training(job, "cpu").block().losses == plain
