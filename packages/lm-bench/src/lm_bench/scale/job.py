"""Memory, communication and speed of a training step on each of some GPUs, by paper.

    model, GPUs, ddp | fsdp --lm_core.model.memory--> bytes of each part
                            --bytes / bandwidth-----> seconds of communication, seconds of computing -> tokens/s

Bytes and seconds of one GPU. W is the number of GPUs, P that of parameters.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from lm_core.config import AdamWConfig, ModelConfig, StepConfig
from lm_core.model.flops import flops_per_token
from lm_core.model.memory import Memory, training_memory
from lm_core.model.parameters import parameter_table

GPU_LOGITS_BYTES = 1 << 31
"""Bytes of logits that the loss holds at a time on a GPU (`lm_torch.fused`)."""
GLOBAL_ROWS = 512
"""Rows of 1,024 tokens in a batch: half a million tokens, as GPT-2 was trained on."""
NODE = 8
"""GPUs of one machine."""
LINK = {True: 300e9, False: 40e9}
"""Bytes a second that a GPU sends while it receives as many, within one machine and between machines: ASSUMED, of the
450 GB/s of NVLink and of 400 Gbit/s between machines for each GPU."""


Parallel = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class Size:
    """A model, and how fast one GPU trains it."""

    name: str
    model: ModelConfig
    most_rows: int
    """Rows of a micro-batch, at most."""
    flops: dict[int, float]
    """Floating-point operations a second that the model needs, by rows of a micro-batch."""
    measured: bool

    @property
    def parameters(self) -> int:
        """P."""
        return sum(parameter.size for parameter in parameter_table(self.model).values())


def _gpt2(d_model: int, n_layers: int, n_heads: int) -> ModelConfig:
    shape = {"d_model": d_model, "n_layers": n_layers, "n_heads": n_heads}
    return ModelConfig(vocab_size=50257, seq_len=1024, tie_embeddings=True, **shape)


SMALL = Size("124 M", _gpt2(768, 12, 12), 64, {8: 400e12, 16: 434e12, 32: 449e12, 64: 471e12}, measured=True)
"""What it reached on one H100 (docs/benchmarks.md)."""
LARGE = Size("1.5 B", _gpt2(1600, 48, 25), 8, {8: 450e12}, measured=False)
"""Its rate is ASSUMED: wider products than those of 350 M, which reached 496e12, and fewer rows."""


@dataclass(frozen=True)
class Job:
    """A training step in bfloat16 with AdamW, of one of some GPUs."""

    size: Size
    gpus: int
    parallel: Parallel
    rows: int = 0
    """Rows of a micro-batch; 0: as many as there are, up to `most_rows`."""

    @property
    def micro(self) -> int:
        """Rows of a micro-batch on one GPU."""
        return self.rows or min(self.size.most_rows, GLOBAL_ROWS // self.gpus)

    @property
    def parts(self) -> int:
        """Micro-batches of a step."""
        return 1 if self.rows else GLOBAL_ROWS // (self.micro * self.gpus)

    @property
    def shards(self) -> int:
        """Number of shares that weights, gradients and optimizer state are cut into."""
        return self.gpus if self.parallel == "fsdp" else 1

    @cached_property
    def memory(self) -> Memory:
        """Bytes by part: those of `lm_core.model.memory`, with gradients and logits, which a lower bound leaves out."""
        step = StepConfig(dtype="bfloat16", parallel=self.parallel, grad_accum_steps=self.parts)
        rows, length = self.micro * self.gpus * self.parts, self.size.model.seq_len
        least = training_memory(self.size.model, AdamWConfig(), step, rows, length, self.gpus)
        whole = 4 * self.size.parameters
        if self.parallel == "fsdp":
            gradients = whole if self.parts > 1 else whole // self.gpus
        else:  # one micro-batch's are in bfloat16, as the weights that it was computed with
            gradients = whole if self.parts > 1 or self.gpus > 1 else whole // 2
        logits = min(4 * self.micro * length * self.size.model.vocab_size, GPU_LOGITS_BYTES)
        return Memory(least.weights, least.optimizer, gradients, least.activations, logits)

    @property
    def copies(self) -> int:
        """Bytes of weights besides: in bfloat16; with FSDP, of a block, the embeddings and the head, in float32."""
        if self.parallel == "ddp":
            return 2 * self.size.parameters
        table = parameter_table(self.size.model)
        block = sum(one.size for name, one in table.items() if name.startswith("blocks.0."))
        rest = sum(one.size for name, one in table.items() if not name.startswith("blocks."))
        return 4 * (block + rest)

    @property
    def sent(self) -> float:
        """Bytes that it sends in a step, and receives: sums of gradients, and weights that are gathered.

        A ring sends (W - 1) / W of a tensor to gather it or to scatter its sum, and both to sum it everywhere.
        """
        times = 2 if self.parallel == "ddp" else 2 * self.parts + 1
        return times * (self.gpus - 1) / self.gpus * 4 * self.size.parameters

    @property
    def communicating(self) -> float:
        """Seconds of a step that it sends for."""
        return self.sent / LINK[self.gpus <= NODE]

    @property
    def computing(self) -> float:
        """Seconds of a step that it computes for."""
        model, tokens = self.size.model, self.micro * self.parts * self.size.model.seq_len
        return tokens * flops_per_token(model, model.seq_len) / self.size.flops[self.micro]

    @property
    def tokens_per_second(self) -> tuple[float, float]:
        """Tokens a second of all, where no communication is hidden behind computing, and where all is that can be."""
        tokens = self.micro * self.parts * self.size.model.seq_len * self.gpus
        return tokens / (self.computing + self.communicating), tokens / max(self.computing, self.communicating)


_WAYS: tuple[tuple[int, Parallel], ...] = ((1, "ddp"), (8, "ddp"), (8, "fsdp"), (64, "ddp"), (64, "fsdp"))
JOBS = [Job(size, gpus, parallel) for size in (SMALL, LARGE) for gpus, parallel in _WAYS]
MEASURED = {8: 5.6, 16: 9.4, 32: 12.7, 64: 21.9}
"""GiB at most on one H100 by rows of a batch of 124 M, one micro-batch (docs/benchmarks.md)."""
