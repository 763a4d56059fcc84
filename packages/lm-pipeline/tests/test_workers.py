"""Units of work: the same results in the same order here and on Ray, of which a stand-in is enough to prove that."""

import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lm_core.errors import UserError
from lm_pipeline import ray_workers
from lm_pipeline.tokens.config import MakeDataConfig
from lm_pipeline.workers import workers

from .conftest import Run

OFF = ("RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")


class RayError(Exception): ...


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__("Traceback\nof many lines")
        self.cause = cause


class Ref:
    """What a task gives; nothing but bytes goes to a worker and back."""

    def __init__(self, future: "Future[bytes]") -> None:
        self._future = future

    def future(self) -> "Future[Any]":
        given = Future[Any]()

        def finish(done: "Future[bytes]") -> None:
            try:
                given.set_result(pickle.loads(done.result()))
            except Exception as error:
                given.set_exception(error)

        self._future.add_done_callback(finish)
        return given


class Held:
    """What `put` gives: functions alone are put here, which only Ray's own pickle takes."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def binary(self) -> bytes:
        return str(id(self)).encode()


class StandIn:
    """Ray with two workers, of which the first `deaths` die, each with its unit."""

    def __init__(self) -> None:
        self.deaths = 0
        self.tries = 0
        self.options: dict[str, Any] = {}
        self.environment: dict[str, str] = {}
        self.is_up = False
        self.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        self._pool = ThreadPoolExecutor(2)

    def init(self, address: str, **options: Any) -> None:
        self.options, self.is_up = {"address": address, **options}, True
        self.environment = dict(os.environ)

    def shutdown(self) -> None:
        self.is_up = False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def put(self, value: Any) -> Held:
        return Held(value)

    def get(self, ref: Held) -> Any:
        return ref.held

    def cancel(self, ref: Ref) -> None: ...

    def remote(self, *, max_retries: int, **_: Any) -> Callable[[Any], Any]:
        def task(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
            sent = [value if isinstance(value, list) else pickle.loads(pickle.dumps(value)) for value in arguments]
            for _ in range(max_retries + 1):
                self.tries += 1
                if self.deaths:
                    self.deaths -= 1
                    continue
                try:
                    return pickle.dumps(function(*sent))
                except Exception as error:
                    raise RayTaskError(error) from None
            raise RayError("The worker died unexpectedly\nwith many lines")

        return lambda function: SimpleNamespace(
            remote=lambda *arguments: Ref(self._pool.submit(task, function, arguments))
        )


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "ray", stand_in)  # type: ignore[arg-type]
    monkeypatch.setattr(ray_workers, "_held", {})
    return stand_in


PLACES = pytest.mark.parametrize(("on", "count"), [("local", 1), ("local", 3), ("ray", 2)])


def square(number: int) -> int:
    if number < 0:
        raise UserError(f"{number} is negative")
    return number * number


@PLACES
def test_results_come_in_the_order_of_the_units(ray: StandIn, on: str, count: int) -> None:
    with workers(on, count) as pool:
        assert list(pool.calls(square, range(50))) == [(i, i * i) for i in range(50)]
        assert list(pool.calls(square, [])) == []
    assert not ray.is_up


@PLACES
def test_a_mistake_comes_after_all_units_before_it(ray: StandIn, on: str, count: int) -> None:
    def cut() -> Iterator[int]:
        yield from range(5)
        raise UserError("the text is cut")

    found: list[tuple[int, int]] = []

    def add(units: Iterable[int]) -> None:
        found.clear()
        with workers(on, count) as pool:
            found.extend(pool.calls(square, units))

    for units, said in ((cut(), "the text is cut"), ([0, 1, 2, 3, 4, -1, 6], "-1 is negative")):
        with pytest.raises(UserError) as mistake:
            add(units)
        assert str(mistake.value) == said
        assert found == [(i, i * i) for i in range(5)]


@PLACES
def test_no_more_units_are_read_ahead_than_keep_the_workers_busy(ray: StandIn, on: str, count: int) -> None:
    read = []

    def numbers() -> Iterator[int]:
        for i in range(100):
            read.append(i)
            yield i

    with workers(on, count) as pool:
        for unit, _ in pool.calls(square, numbers()):
            assert len(read) <= unit + 2 * count


def test_units_are_done_again_when_a_worker_dies(ray: StandIn) -> None:
    with workers("ray", 2) as pool:
        ray.deaths = 3
        assert list(pool.calls(square, range(20))) == [(i, i * i) for i in range(20)]
        assert ray.tries == 23
        ray.deaths = 100
        with pytest.raises(UserError, match=r"^the Ray worker died: The worker died unexpectedly$"):
            list(pool.calls(square, [1]))


class Unreadable:
    """A result that only the machine which made it can read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (int, ("no number",))


def unreadable(_unit: int) -> Unreadable:
    return Unreadable()


def test_a_result_that_cannot_be_read_is_an_error(ray: StandIn) -> None:
    with pytest.raises(ValueError, match="no number"), workers("ray") as pool:
        list(pool.calls(unreadable, [1]))


def test_a_ray_of_our_own_is_for_this_machine_alone_and_ends_with_the_block(ray: StandIn) -> None:
    with suppress(KeyboardInterrupt), workers("ray", 3):
        folder = Path(ray.options["_temp_dir"])
        assert ray.is_up
        assert (ray.options["address"], ray.options["num_cpus"]) == ("local", 3)
        assert ray.options["include_dashboard"] is False
        assert ray.environment.items() >= {**dict.fromkeys(OFF, "0"), "RAY_AUTH_MODE": "token"}.items()
        assert len(ray.environment["RAY_AUTH_TOKEN"]) == 64
        assert folder.is_dir()
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(60)
    assert not ray.is_up
    assert not folder.exists()
    assert "RAY_AUTH_TOKEN" not in os.environ


@pytest.mark.parametrize(
    ("on", "said"),
    [
        ("rya", 'on = \'rya\' is not a place to work: "local", "ray"'),
        ("ray://host", "on = 'ray://host' is not a place to work"),
        ("ray://127.0.0.1:9", "on = 'ray://127.0.0.1:9': nothing answers there (Connection refused)"),
        ("127.0.0.1:99999", "on = '127.0.0.1:99999': nothing answers there ("),
    ],
)
def test_an_address_at_which_nothing_answers(ray: StandIn, on: str, said: str) -> None:
    with pytest.raises(UserError) as mistake, workers(on):
        pass
    assert str(mistake.value).startswith(said)
    assert ray.options == {}


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"on = 'ray' needs Ray: install lm-pipeline\[ray\]"), workers("ray"):
        pass


# Programs


def program_of(unit: str) -> tuple[str, ...]:
    return ("a_program", unit)


@pytest.fixture
def a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_program.py").write_text(
        "import os, sys\n"
        "print(sys.argv[1])\n"
        "print('a line of', sys.argv[1], os.environ.get('OMP_NUM_THREADS'), file=sys.stderr)\n"
        "if sys.argv[1] == 'broken': raise ValueError('broken')\n"
        "sys.exit({'well': None, 'diverges': 1, 'mistaken': 2, 'says': 'a word'}[sys.argv[1]])\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["here"])


ENDS = {"well": 0, "diverges": 1, "mistaken": 2, "says": 1, "broken": 1}


def test_a_program_ends_in_a_ray_worker_as_it_does_here(
    a_program: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with workers("local", 2) as pool:
        assert dict(pool.programs(program_of, ["mistaken", "broken"])) == {"mistaken": 2, "broken": 1}
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    for unit, code in ENDS.items():
        ended, said = ray_workers._program(program_of, unit, str(tmp_path), {"OMP_NUM_THREADS": "3"})
        assert ended == code
        assert said.startswith(f"a line of {unit} 3\n")
    assert said.endswith("ValueError: broken\n")
    with pytest.raises(UserError, match="has no folder nowhere: use one that all machines see"):
        ray_workers._program(program_of, "well", "nowhere", {})


def test_programs_are_asked_for_when_there_is_room_and_come_back_as_they_end(
    ray: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = {"slow": threading.Event(), "fast": threading.Event(), "last": threading.Event()}
    asked = []

    def run(_command: Any, unit: str, _folder: str, _threads: Any) -> tuple[int, str]:
        assert ends[unit].wait(60)
        return len(unit), f"{unit} has ended\n"

    def units() -> Iterator[str]:
        for unit in ends:
            asked.append(unit)
            yield unit

    monkeypatch.setattr(ray_workers, "_program", run)
    with workers("ray") as pool:
        results = pool.programs(program_of, units())
        ends["fast"].set()
        assert next(results) == ("fast", 4)
        assert asked == ["slow", "fast"]
        ends["last"].set()
        assert next(results) == ("last", 4)
        ends["slow"].set()
        assert list(results) == [("slow", 4)]
    assert capsys.readouterr().err == "fast has ended\nlast has ended\nslow has ended\n"


def test_what_still_runs_when_the_block_is_left_is_cancelled(ray: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()

    def run(_command: Any, unit: str, *_: Any) -> tuple[int, str]:
        return int(unit == "runs" and not end.wait(60)), ""

    monkeypatch.setattr(ray_workers, "_program", run)
    monkeypatch.setattr(ray, "cancel", lambda _ref: end.set())
    with workers("ray") as pool:
        assert next(pool.programs(program_of, ["runs", "ends"])) == ("ends", 0)
        assert not end.is_set()
    assert end.is_set()


# Commands


def test_make_data_on_ray_writes_the_same_bytes(ray: StandIn, folder: Path, run_make_data: Run) -> None:
    end = "<|endoftext|>"
    texts = [f"Document {i}: it's naïve {i * i}\n" * (1 + i % 7) for i in range(60)]
    (folder / "all.txt").write_text(end.join(texts))
    flags = ["--train", "all.txt", "--tokenizer", "tok", "--separator", end, "--validation_fraction", 0.2]
    flags += ["--shard_bytes", 500, "--threads", 2]
    for name, *more in (
        ("here",),
        ("there", "--on", "ray"),
        ("shards", "--shards"),
        ("shards there", "--shards", "--on", "ray"),
    ):
        ray.deaths = 2
        assert run_make_data(*flags, *more, "--output", name) == 0
    assert ray.tries > 10

    def contents(name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes().replace(f'"{name}"'.encode(), b"") for path in (folder / name).iterdir()}

    assert contents("there") == contents("here")
    assert contents("shards there") == contents("shards")


def test_a_mistake_on_ray_leaves_nothing(
    ray: StandIn, folder: Path, run_make_data: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "all.txt").write_text("a text\n" * 100 + "<|endoftext|> in it")
    for on in ("ray", "rya"):
        assert run_make_data("--train", "all.txt", "--tokenizer", "tok", "--output", "made/out", "--on", on) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not (folder / "made").exists()


def test_where_it_is_made_is_not_in_the_record() -> None:
    assert MakeDataConfig(on="ray").recorded() == MakeDataConfig().recorded()
