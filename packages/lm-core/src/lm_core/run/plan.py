"""Plan of a run: every decision made and checked before a framework is loaded.

an app's config --its translation--> Plan --session.run--> run folder
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

from lm_core.backend import NumpyArrays, Trainer
from lm_core.config import Config, LoopConfig, ModelConfig, OptimizerConfig, ScheduleConfig, StepConfig
from lm_core.data.batches import Batch, Batches, Origin, Resumable
from lm_core.errors import UserError
from lm_core.file_names import toml_document
from lm_core.model.init import initial_arrays
from lm_core.model.memory import Memory, training_memory
from lm_core.model.parameters import check_weights, parameter_table
from lm_core.optim import state_shapes
from lm_core.run.checkpoint import Checkpoint
from lm_core.run.evaluation import BytesOf
from lm_core.run.resume import History, Policy, Recorded, Values, flat, rate_change, resumed_as
from lm_core.run.sinks.sink import Sink

_SHAPES = 256
"""Number of batches that stand for all where lengths vary."""
_SHOWN = 12
"""Letters of a hash in a history."""
C = TypeVar("C", bound=Config)
Sinks = Callable[[Path, int], list[Sink]]
"""Opens where else records go: takes the run folder and the step that the run starts or is resumed from."""


class RunTokenizer(Protocol):
    """Interface of a tokenizer to a run folder: enough to read the run's ids."""

    @property
    def name(self) -> str:
        """Its kind."""

    @property
    def fingerprint(self) -> str:
        """Hash that identifies the tokenizer."""

    def save(self, folder: Path) -> None:
        """Write it to a folder."""

    def is_saved_in(self, folder: Path) -> bool | None:
        """Whether the tokenizer in a folder is this one; None where it holds none.

        Raises:
            ValueError: when there are files of one, and they cannot be read.
        """


@runtime_checkable
class SampledBatches(Batches, Protocol):
    """Batches that a run samples with the weights that it trains, as in reinforcement learning.

    What is sampled serves some steps and is kept in no file, so a run stops and saves between two samplings, where
    it is resumed to the bit, for the next sampling is a function of the weights.
    """

    @property
    def every(self) -> int:
        """Number of steps that one sampling serves."""

    def of(self, trainer: Trainer) -> "SampledBatches":
        """Those that this trainer samples; the session asks for them once."""

    def metrics(self, step: int) -> Mapping[str, float | Mapping[str, float]]:
        """Further metrics for the record of a step, the last one that a batch was asked of."""


@dataclass(frozen=True)
class Sample:
    """Sampled text of a run."""

    text: Callable[[Trainer, int], str]
    """Return the text at a step."""
    heading: str
    """Description of how it was sampled."""
    at_saves: bool = False
    """Whether at every save, not at the end alone."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run."""

    config: Config
    """Config of the app, with absolute paths."""
    policy: Policy
    """Which keys of it a resume may change."""
    command: str
    """Command line as typed."""
    resume_command: str
    """Command that resumes the run."""
    backend: str
    seed: int
    model: ModelConfig
    optimizer: OptimizerConfig
    step: StepConfig
    loop: LoopConfig
    schedule: ScheduleConfig
    keep: int = 2
    """Number of checkpoints to keep, besides the best."""
    batches: Batches
    evaluation: Sequence[Batch] = ()
    """Validation batches; the validation loss is the mean over their tokens. Without any there is none."""
    test: Sequence[Batch] = ()
    """Test batches, evaluated once at the end."""
    data: str
    """Description of the training text."""
    training_tokens: int
    """Tokens in the training text."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Further metadata of the checkpoints."""
    content: Mapping[str, str] = field(default_factory=dict)
    """Keys of the config that name data, which counts by its content: key -> dotted key of its hash in `metadata`."""
    tokenizer: RunTokenizer
    checkpoint: Checkpoint | None = None
    """Checkpoint to resume, or to start another run from."""
    history: History = field(default_factory=History)
    """Changes by this resume and earlier ones."""
    notes: Sequence[str] = ()
    """Notes to print before the run starts."""
    weights: NumpyArrays | None = None
    """Initial weights, from another model; drawn from the seed when not given."""
    bits_name: str = "bits_per_token"
    """Name of loss / ln 2 in records."""
    bytes_of: BytesOf | None = None
    """UTF-8 bytes of a batch's targets; with it, records hold `bits_per_byte`."""
    perplexity: bool = False
    """Whether evaluations hold `perplexity`."""
    sample: Sample | None = None
    sinks: Sinks = lambda _folder, _start: []
    console: bool = True
    """Whether records are printed."""
    ranks: int = 1
    """Number of processes that train it together, as the session has found it."""
    knobs: Mapping[str, str] = field(default_factory=dict)
    """The app's names of what memory depends on, for advice: of `batch_size`, `seq_len` and `d_model`; where it has
    them, of `grad_accum_steps` and `gradient_checkpointing`; of `micro_batch_size` in place of `batch_size` where it is
    the micro-batches that it counts."""
    next_steps: Callable[[Path], Sequence[str]] = lambda _folder: ()
    """Commands to run on the finished run in a folder, one per line."""

    def resumed(
        self,
        known: Recorded[C],
        schedule_of: Callable[[C], ScheduleConfig],
        *,
        advice: str = "this is fixed for a run: leave it out, or start another run",
        batch_size: int | None = None,
    ) -> Self:
        """The plan of a run that is resumed, with what that changes; the same plan where nothing was saved.

        Shuffled windows are counted on from those that the run has read; those of other data start with an epoch.

        Args:
            known: the run, as `lm_core.run.session.opened` gives it.
            schedule_of: the learning rate over the run of a config.
            advice: what to do about a change that is refused.
            batch_size: rows per step before, where a resume may change them.

        Raises:
            UserError: when a key differs that must not.
        """
        checkpoint = known.checkpoint
        if checkpoint is None:
            return self
        was, now = self._hashes(checkpoint.metadata)
        history = resumed_as(self.policy, known.before, self.config, checkpoint, advice, (was, now))
        rate = None
        if history.changes:  # else that a decay is over is not news
            rate = rate_change(schedule_of(known.before), self.schedule, checkpoint.step, self.loop.max_steps)
        other = [f"note: {key} holds other data than the run was trained on" for key in now if now[key] != was[key]]
        notes = [*self.notes, *other, *history.lines(), *([rate] if rate else [])]
        batches = self.batches
        if isinstance(batches, Resumable):
            origin = Origin(**(checkpoint.metadata.get("origin") or {}))
            before = batches.batch_size if batch_size is None else batch_size
            batches = batches.resumed(origin, checkpoint.step, before, other=bool(other))
        return replace(self, checkpoint=checkpoint, history=history, notes=notes, batches=batches)

    def _hashes(self, metadata: Mapping[str, Any]) -> tuple[Values, Values]:
        """Hashes of the data, in a checkpoint and here, by key; data without one there counts by its path."""
        was, now = flat(metadata), flat(self.metadata)
        known = {key: place for key, place in self.content.items() if place in was}
        old, new = ({key: str(of[place])[:_SHOWN] for key, place in known.items()} for of in (was, now))
        return old, new

    @cached_property
    def shapes(self) -> list[tuple[int, int]]:
        """[B, T] of the next batches: of one where all are alike, of some where lengths vary."""
        done = self.checkpoint.step if self.checkpoint else 0
        some = min(_SHAPES, self.loop.max_steps - done) if self.step.varying_length else 1
        return [self.batches.shape(done + 1 + i) for i in range(max(some, 1))]

    @property
    def largest(self) -> tuple[int, int]:
        """[B, T] of the largest of them."""
        rows, length = max(self.shapes, key=prod)
        return rows, length

    @property
    def tokens(self) -> int:
        """Tokens that the run reads in all its steps; an estimate where lengths vary."""
        return round(self.loop.max_steps * sum(map(prod, self.shapes)) / len(self.shapes))

    @property
    def memory(self) -> Memory:
        """The least that training needs on each rank: what the largest of its next steps does."""
        return training_memory(self.model, self.optimizer, self.step, *self.largest, ranks=self.ranks)

    @property
    def kept_config(self) -> dict[str, Any]:
        """The config as the run folder and the checkpoints keep it: without what is about one call."""
        return self.policy.kept(self.config)

    def config_toml(self) -> str:
        """The same as TOML."""
        return toml_document(self.kept_config)

    def checkpoint_metadata(self) -> dict[str, Any]:
        """Metadata of every checkpoint of the run, besides the loop's own state."""
        return {
            **self.metadata,
            "model": self.model.model_dump(mode="json"),
            "optimizer": self.optimizer.model_dump(mode="json"),
            "tokenizer": {"kind": self.tokenizer.name, "fingerprint": self.tokenizer.fingerprint},
            "config": self.kept_config,
            "history": self.history.entries,
            **({"eval_average": True} if self.loop.eval_average else {}),
            **({"origin": asdict(self.batches.origin)} if isinstance(self.batches, Resumable) else {}),
        }

    def initial_weights(self) -> NumpyArrays:
        """Weights to build the trainer with: the checkpoint's, those given, or drawn from the seed."""
        if self.checkpoint:
            return self.checkpoint.weights
        return initial_arrays(self.model, self.seed) if self.weights is None else self.weights

    def check_fits(self) -> None:
        """Refuse a checkpoint that is not of this model, optimizer and tokenizer, whatever its config says.

        Raises:
            UserError: saying what differs.
        """
        if self.checkpoint is None:
            return
        path, metadata = self.checkpoint.path, self.checkpoint.metadata
        theirs, table = metadata.get("model") or {}, parameter_table(self.model)
        different = [
            f"model.{key} is {theirs.get(key)} in the checkpoint and {ours} here"
            for key, ours in self.model.model_dump(mode="json", exclude={"dropout"}).items()
            if theirs.get(key) != ours
        ]
        if different:
            raise UserError(f"{path}: {'; '.join(different)}")
        check_weights(self.model, self.checkpoint.weights, str(path.with_suffix(".safetensors")))
        if {n: a.shape for n, a in self.checkpoint.optimizer_state.items()} != state_shapes(self.optimizer, table):
            was = (metadata.get("optimizer") or {}).get("name")
            raise UserError(f"{path}: its optimizer state, of {was}, does not fit the optimizer {self.optimizer.name}")
        if not self.fits_tokenizer(self.checkpoint):
            raise UserError(f"{path}: it was trained with another tokenizer")

    def check_intervals(self) -> None:
        """Refuse a run that would end or save between two samplings.

        Raises:
            UserError: naming the number.
        """
        every = self.batches.every if isinstance(self.batches, SampledBatches) else 1
        for number, what in ((self.loop.max_steps, "steps"), (self.loop.save_every, "steps between two saves")):
            if number % every:
                raise UserError(f"{number} {what}: give a multiple of the {every} steps that one sampling serves")

    def fits_tokenizer(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint was trained with the plan's tokenizer, if it says so."""
        known = (checkpoint.metadata.get("tokenizer") or {}).get("fingerprint")
        return known in (None, self.tokenizer.fingerprint)
