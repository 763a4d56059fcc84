"""Several runs of one shape in step with each other, their models trained as one: the seeds of an arm of a study.

    run k, in a thread of its own  --build, step, evaluate--> waits    all wait --requests--> one call of `SeedTrainer`
                                  <----------------------------------  its part of what the call gave


Every run is a session, with a folder of its own, that does not know of the others: it writes what it writes alone, but
for rounding, and its checkpoints are resumed alone or together. One session runs at a time, so that nothing that it
calls has to be safe for threads; the threads that write checkpoints run beside it, as ever.

A run that ends before the others, or is resumed at a later step than they are, has a stand-in at its place, which reads
another run's batches: the shapes stay what they were, and so do the bits of the others.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from threading import Semaphore, Thread
from typing import Any, Generic, NamedTuple, TypeVar, cast

from lm_core import terminal
from lm_core.backend import Backend, Metrics, NumpyArrays, SeedTrainer
from lm_core.config import ModelConfig, OptimizerConfig, StepConfig
from lm_core.data.batches import Batch
from lm_core.errors import UserError
from lm_core.run.interrupts import Interrupts
from lm_core.world import current as current_world

T = TypeVar("T")
R = TypeVar("R", "Build", "Pause", "Step", "Evaluation")
State = tuple[NumpyArrays, NumpyArrays]
"""Weights and optimizer state of a run."""


class Build(NamedTuple):
    """A request for the model, with the arguments of `Backend.build`."""

    backend: Backend
    model: ModelConfig
    optimizer: OptimizerConfig
    step: StepConfig
    weights: NumpyArrays
    seed: int


class Pause(NamedTuple):
    """A request to let the others come as far, so that the time of none has another's start or end in it."""


class Step(NamedTuple):
    """A request for a step."""

    batch: Batch
    lr: float


class Evaluation(NamedTuple):
    """A request for the loss on a batch, by the weights or by their average."""

    batch: Batch
    averaged: bool


Request = Build | Pause | Step | Evaluation


class Place:
    """The place of one run among those that are trained together."""

    def __init__(self, group: "Group[Any]", number: int, name: str, run: Callable[[], object]):
        self.group, self.number, self.name = group, number, name
        self.request: Request | None = None
        """What it waits for; None once it has ended."""
        self.taken = 0
        """Steps that its trainer has taken."""
        self.loaded: State | None = None
        """What it was resumed from, until the model has it."""
        self.has_ended = False
        self.outcome: Any = None
        """What the run has returned or raised."""
        self._run, self._turn, self._answer = run, Semaphore(0), cast("Any", None)
        self._thread = Thread(target=self._main, name=name, daemon=True)

    def wait(self, request: Request) -> Any:
        """Let the others run until all of them wait, and the main thread has an answer."""
        self.request = request
        self.group.turn.release()
        self._turn.acquire()
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer

    def resume(self, answer: object = None) -> None:
        """Run it, in the main thread, to where it waits again or ends."""
        self.request, self._answer = None, answer
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._turn.release()
        self.group.turn.acquire()

    def _main(self) -> None:
        _place.set(self)
        terminal.mark_lines(f"{self.name}: ")
        try:
            self.outcome = self._run()
        except Exception as error:
            self.outcome = error
            terminal.say(str(error) or type(error).__name__)  # here, and not when the others have ended, hours later
        except BaseException as error:  # SystemExit: it is for who has asked for the runs
            self.outcome = error
        self.has_ended = True
        self.group.turn.release()


_place: ContextVar[Place | None] = ContextVar("place", default=None)


def current() -> Place | None:
    """The place of the run that calls this; None for one that is alone."""
    return _place.get()


def is_first() -> bool:
    """Whether the run that calls this is alone, or the first at work of those that are trained together."""
    place = current()
    return place is None or all(before.has_ended for before in place.group.places[: place.number])


class Asked:
    """Whether the runs are to stop, as each sees at its next step."""

    requested = False


Answers = list[tuple[Place, object]]


class Group(Generic[T]):
    """Runs to be trained together.

    Args:
        runs: a name for each, with which its lines begin, and what runs it, which ends in `lm_core.run.session.run`.
    """

    def __init__(self, runs: Iterable[tuple[str, Callable[[], T]]]):
        self.asked, self.turn = Asked(), Semaphore(0)
        self.places = [Place(self, number, name, run) for number, (name, run) in enumerate(runs)]
        self._trainer: SeedTrainer | None = None
        self._taken = 0

    @property
    def trainer(self) -> SeedTrainer:
        """That of all, once it is built."""
        assert self._trainer is not None
        return self._trainer

    def run(self) -> list[T | Exception]:
        """Run them to their ends, in the main thread; returns what each has returned or raised, in their order.

        Raises:
            UserError: where several ranks train.
        """
        if current_world().size > 1:
            raise UserError("seeds are trained together by one process: give one rank, or train them in turn")
        with Interrupts() as interrupts:
            for place in self.places:
                place.resume()
            while waiting := [place for place in self.places if place.request is not None]:
                answers = self._answers(waiting)
                self.asked.requested = interrupts.requested
                for place, answer in answers:
                    place.resume(answer)
        for place in self.places:
            if isinstance(place.outcome, BaseException) and not isinstance(place.outcome, Exception):
                raise place.outcome
        return [place.outcome for place in self.places]

    def state(self, number: int) -> State:
        """What the model has at a place."""
        return self.trainer.weights(number), self.trainer.optimizer_state(number)

    def _answers(self, waiting: Sequence[Place]) -> Answers:
        """The next call, for those that have taken the fewest steps; an error is for all to report."""
        taken = min(place.taken for place in waiting)
        asking = [place for place in waiting if place.taken == taken]
        try:
            if builds := _of(asking, Build):
                return self._build(builds)
            if pauses := _of(waiting, Pause):
                return [(place, None) for place in pauses]
            self._load(asking, taken)
            if evaluations := _of(asking, Evaluation):
                return self._evaluate(evaluations)
            return self._step(_of(asking, Step))
        except Exception as error:
            return [(place, error) for place in waiting]

    def _build(self, asking: Mapping[Place, Build]) -> Answers:
        for place in self.places:
            if isinstance(place.outcome, Exception):
                raise UserError(f"{place.name} cannot start, so the others do not: {place.outcome}")
        every = self._everywhere(asking)
        _check_same("model, optimizer and step", [one[1:4] for one in every])
        weights, seeds = [one.weights for one in every], [one.seed for one in every]
        self._trainer = every[0].backend.build_seeds(*every[0][1:4], weights, seeds)
        return [(place, None) for place in asking]

    def _load(self, asking: Sequence[Place], taken: int) -> None:
        """Give the model what runs were resumed from at this step; the others keep what they have."""
        states = {place: place.loaded for place in asking if place.loaded}
        if not states:
            return
        stand_in = next(iter(states.values()))
        every = [states.get(p) or (self.state(p.number) if taken == self._taken else stand_in) for p in self.places]
        self.trainer.load([weights for weights, _ in every], [state for _, state in every])
        self._taken = taken
        for place in states:
            place.loaded = None

    def _evaluate(self, asking: Mapping[Place, Evaluation]) -> Answers:
        """One evaluation, of those whose batches have one shape."""
        first = next(iter(asking.values()))
        alike = {p: one for p, one in asking.items() if one.batch.inputs.shape == first.batch.inputs.shape}
        with self.trainer.averaged() if first.averaged else nullcontext():
            losses = self.trainer.evaluate([one.batch for one in self._everywhere(alike)])
        return [(place, losses[place.number]) for place in alike]

    def _step(self, asking: Mapping[Place, Step]) -> Answers:
        every = self._everywhere(asking)
        _check_same("learning rate", [one.lr for one in every])
        metrics: Sequence[Metrics] = self.trainer.step([one.batch for one in every], every[0].lr)
        self._taken += 1
        for place in asking:
            place.taken = self._taken
        return [(place, metrics[place.number]) for place in asking]

    def _everywhere(self, asking: Mapping[Place, R]) -> list[R]:
        """The request of every place; where a run does not ask, another's."""
        another = next(iter(asking.values()))
        return [asking.get(place, another) for place in self.places]


def _check_same(what: str, values: Sequence[object]) -> None:
    if any(value != values[0] for value in values):
        raise UserError(f"seeds are trained as one model only with the same {what}: give each the same flags")


def _of(places: Sequence[Place], kind: type[R]) -> dict[Place, R]:
    return {place: place.request for place in places if isinstance(place.request, kind)}
