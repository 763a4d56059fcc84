"""One training run of a campaign, and what is done to it while it runs."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from lm_bench.cases import random_walk
from lm_bench.flags import BackendName
from lm_core.config import AdamWConfig, Config, ModelConfig, ScheduleConfig, StepConfig
from lm_core.data.batches import Batch, SequentialWindows, ShuffledWindows
from lm_tokenizer.adapters.characters import CharacterTokenizer

STEPS, SHORT_STEPS, SAVE_EVERY, KEEP = 40, 20, 4, 2
DIED_AT = 14
"""The step at which a run is killed that is then given something else to cope with."""
SEED = 0
BATCH_SIZE, VOCABULARY = 4, 29
MODEL = ModelConfig(vocab_size=VOCABULARY, seq_len=16, d_model=16, n_layers=2, n_heads=2, dropout=0.1)
OPTIMIZER = AdamWConfig(beta2=0.99, weight_decay=0.1, grad_clip=1.0)
STEP = StepConfig(device="cpu", grad_accum_steps=2)
SCHEDULE = ScheduleConfig(peak_lr=1e-2, warmup_steps=5)
TOKENIZER = CharacterTokenizer("abcdefghijklmnopqrstuvwxyz .,")


class Trial(Config):
    """Instructions to a child."""

    folder: str
    """The run folder; a run in it is resumed."""
    backend: BackendName
    steps: int = STEPS
    save_every: int = SAVE_EVERY
    keep: int = KEEP
    announced: str = ""
    """File that gets a line for each checkpoint that the run announces."""
    stop_at_start: bool = False
    """Stop (SIGSTOP) before anything is done, for a tracer to attach."""
    stop_at_save: int = 0
    """Stop in the thread of this save, counted from 1, before its first operation; its id is then in `announced`."""
    die_at: int = 0
    """SIGKILL at the start of this step, once no save is running."""
    pace: float = 0.0
    """Seconds to wait before each step."""
    stall: float = 0.0
    """Seconds that every fsync takes longer."""
    poison: str = ""
    """"loss", "gradient of" a weight, or the name of a weight or a part of the optimizer's state."""
    poison_value: str = "nan"
    """nan, inf or -inf."""
    poison_at: int = 0
    """The step that is poisoned."""
    file_limit: int = 0
    """Bytes that a file may have (RLIMIT_FSIZE)."""
    limit_kills: bool = False
    """Whether SIGXFSZ has its default effect; Python ignores it, and a write then fails."""
    memory_limit: int = 0
    """Bytes of address space beyond what is in use (RLIMIT_AS)."""
    clock: float = 0.0
    """Seconds to put the clock forward by; negative: back."""
    without_rights: bool = False
    """Give up root's right to write where the mode says no."""
    folder_flush: bool = True
    """Whether folders can be flushed; else fsync on one is EINVAL, as on network and shared folders."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """What each of several ranks holds."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Variables by which a launcher makes it one of several ranks."""
    careless: Literal["", "in place", "prune first"] = ""
    """Write files in place and without a flush, or remove the old checkpoints before a save: what must be noticed."""
    audit: str = ""
    """File that gets a line for everything that only foreign code would do."""


@dataclass(frozen=True)
class Data:
    """Few enough tokens that epochs turn several times within a run."""

    training: ShuffledWindows
    validation: list[Batch]


def data() -> Data:
    """An epoch has 23 windows, not quite six steps; a step may cross into the next one."""
    ids = random_walk(VOCABULARY, 400)
    return Data(
        ShuffledWindows(ids, BATCH_SIZE, MODEL.seq_len, SEED),
        list(SequentialWindows(ids[:100], BATCH_SIZE, MODEL.seq_len)),
    )
