"""Groups of sides that are timed in turn, each side a job that a process can be given as JSON."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from lm_bench.flags import GpuPart
from lm_bench.infer.workload import INIT_STD
from lm_bench.train.workload import GPT2_124M, GRAD_CLIP, PADDED_VOCAB, nanogpt_adamw
from lm_core.config import AdamWConfig, Config, Dtype, KBetaConfig, ModelConfig, OptimizerConfig, StepConfig

SEED_STEPS = "seed-steps/s"
"""Steps of all models that are trained together."""
Kind = Literal["product", "copy", "train", "decode", "bits", "gradients"]
Who = Literal["ours", "plain", "plain-fused", "huggingface"]
How = Literal["eager", "graph", "sampled", "int8", "compiled"]


class Job(Config):
    """One side of a group."""

    side: str
    """Its name in the table."""
    kind: Kind
    unit: str
    """Of its figure."""
    who: Who = "ours"
    how: How = "compiled"
    """Decoding: as it goes, by a graph, greedy or not, with int8 weights, or compiled; of Hugging Face's, compiled is
    its static cache."""
    model: ModelConfig | None = None
    optimizer: OptimizerConfig = Field(AdamWConfig(), discriminator="name")
    step: StepConfig = StepConfig()
    seeds: int = 1
    """Models that are trained together; `rows` and `steps` are of each."""
    rows: int = 1
    length: int = 1
    """Tokens in a row; of a prompt, where it decodes."""
    steps: int = 1
    """In a block; ids of each row, where it decodes."""
    lr: float = 6e-5


@dataclass(frozen=True)
class Group:
    """Sides that are timed in turn; the others are compared with the first."""

    part: GpuPart
    title: str
    jobs: tuple[Job, ...]


@dataclass(frozen=True)
class Sizes:
    """The models, the batches, and how many steps make a block."""

    gpt: ModelConfig
    large: ModelConfig
    testbed: ModelConfig
    decoded: ModelConfig
    train: tuple[tuple[int, int], ...]
    """Rows and steps in a block, the most wanted first; the first gets all peers, the second the options."""
    large_rows: tuple[int, int]
    testbed_rows: tuple[int, int]
    seeds: int
    """Of Testbed D that are trained together."""
    decode_rows: tuple[int, int]
    prompt: int
    tokens: int
    compile: bool
    dtype: Dtype


def _testbed(vocab_size: int, length: int, d_model: int, n_layers: int, n_heads: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab_size, seq_len=length, d_model=d_model, n_layers=n_layers, n_heads=n_heads, head_bias=True
    )


def _tiny(**changes: object) -> ModelConfig:
    sizes = {"vocab_size": 61, "seq_len": 32, "d_model": 32, "n_layers": 2, "n_heads": 2}
    return GPT2_124M.model_copy(update={**sizes, **changes})


SIZES = {
    "cuda": Sizes(
        gpt=GPT2_124M.model_copy(update={"vocab_size": PADDED_VOCAB}),
        large=GPT2_124M.model_copy(update={"vocab_size": PADDED_VOCAB, "d_model": 1024, "n_layers": 24, "n_heads": 16}),
        testbed=_testbed(205, 512, 512, 6, 8),
        decoded=GPT2_124M.model_copy(update={"init_std": INIT_STD}),
        train=((16, 20), (64, 5), (8, 30), (32, 10)),
        large_rows=(32, 4),
        testbed_rows=(4, 60),
        seeds=8,
        decode_rows=(1, 8),
        prompt=32,
        tokens=128,
        compile=True,
        dtype="bfloat16",
    ),
    "cpu": Sizes(
        gpt=_tiny(),
        large=_tiny(n_layers=3),
        testbed=_testbed(61, 16, 16, 1, 2),
        decoded=_tiny(init_std=0.4),
        train=((1, 1), (4, 1)),
        large_rows=(2, 1),
        testbed_rows=(2, 2),
        seeds=2,
        decode_rows=(1, 2),
        prompt=4,
        tokens=8,
        compile=False,
        dtype="bfloat16",
    ),
}
"""On a CPU everything is tiny: it shows that the command works, and says nothing about speed."""

KBETA = KBetaConfig(
    beta2_min=0.88, alpha=0.93, tiny_spike=1e-9, bias_correction="beta2max", warmup_steps=350, buckets="per-array"
)
"""configs/testbed_d.toml"""


def groups_of(device: str, parts: tuple[GpuPart, ...]) -> list[Group]:
    """The groups of the parts that are named, the most wanted first."""
    sizes = SIZES[device]
    first, most, *others = _train(sizes, device)
    alone, together = (_decode(sizes, rows, device) for rows in sizes.decode_rows)
    # What takes much memory while it compiles is spread over the waves.
    every = [
        *(_card(device), first, *others[:1], alone),
        *(most, together),
        *(_testbed_d(sizes, device), *others[1:], _large(sizes, device)),
        _bits(sizes, device),
        _gradients(sizes, device),
    ]
    return [group for group in every if group.part in parts]


def _step(device: str, dtype: Dtype, compiled: bool, **changes: object) -> StepConfig:
    where = "gpu" if device == "cuda" else "cpu"
    return StepConfig.parse({"dtype": dtype, "compile": compiled, "device": where, **changes})


def _card(device: str) -> Group:
    jobs = (
        Job(
            side="product of 8192 x 8192 in bfloat16" if device == "cuda" else "product", kind="product", unit="TFLOP/s"
        ),
        Job(side="copy, bytes read and written", kind="copy", unit="TB/s"),
    )
    step = _step(device, "bfloat16", False)
    return Group("card", "the card itself", tuple(job.model_copy(update={"step": step}) for job in jobs))


def _train(sizes: Sizes, device: str) -> list[Group]:
    groups = []
    for place, (rows, steps) in enumerate(sizes.train):
        step = _step(device, sizes.dtype, sizes.compile)
        ours = Job(
            side="ours",
            kind="train",
            unit="tokens/s",
            model=sizes.gpt,
            optimizer=nanogpt_adamw(0.95),
            step=step,
            rows=rows,
            length=sizes.gpt.seq_len,
            steps=steps,
        )
        jobs = [ours, _peer(ours, "plain-fused", "loop, fused AdamW")]
        if place == 0:
            jobs += [_peer(ours, "plain", "loop, AdamW"), _peer(ours, "huggingface", "GPT2LMHeadModel")]
        if place == 1:
            jobs += [
                _with(ours, "ours, gradient checkpointing", gradient_checkpointing=True),
                _with(ours, "ours, 4 micro-batches", grad_accum_steps=4),
                _with(ours, "ours, deterministic", deterministic=True),
                _with(ours, "ours, float8", dtype="float8"),
            ]
        groups.append(Group("train", f"124 M, {rows} x {sizes.gpt.seq_len}", tuple(jobs)))
    return groups


def _peer(job: Job, who: Who, name: str) -> Job:
    return job.model_copy(update={"who": who, "side": name})


def _with(job: Job, name: str, **changes: object) -> Job:
    return job.model_copy(update={"side": name, "step": job.step.model_copy(update=changes)})


def _large(sizes: Sizes, device: str) -> Group:
    rows, steps = sizes.large_rows
    job = Job(
        side="ours",
        kind="train",
        unit="tokens/s",
        model=sizes.large,
        optimizer=nanogpt_adamw(0.95),
        step=_step(device, sizes.dtype, sizes.compile),
        rows=rows,
        length=sizes.large.seq_len,
        steps=steps,
    )
    return Group("large", f"350 M, {rows} x {sizes.large.seq_len}", (job,))


def _decode(sizes: Sizes, rows: int, device: str) -> Group:
    hows: tuple[tuple[Who, How, str], ...] = (
        ("ours", "graph", "ours, graph"),
        ("ours", "sampled", "ours, graph, top-k 40 and top-p 0.9"),
        ("ours", "int8", "ours, graph, int8 weights"),
        ("ours", "compiled", "ours, compiled, graph"),
        ("ours", "eager", "ours, eager"),
        ("huggingface", "eager", "HF generate"),
        ("huggingface", "compiled", "HF generate, static cache, compiled"),
    )
    jobs = tuple(
        Job(
            side=name,
            kind="decode",
            unit="tokens/s",
            who=who,
            how=how,
            model=sizes.decoded,
            step=_step(
                device,
                sizes.dtype,
                how == "compiled" and sizes.compile,
                cuda_graph="off" if how == "eager" else "auto",
                weights_dtype="int8" if how == "int8" else "same",
            ),
            rows=rows,
            length=sizes.prompt,
            steps=sizes.tokens,
        )
        for who, how, name in hows
    )
    return Group("decode", f"124 M decoding, {rows} {'row' if rows == 1 else 'rows'}", jobs)


def _testbed_d(sizes: Sizes, device: str) -> Group:
    rows, steps = sizes.testbed_rows
    precisions: tuple[tuple[str, Dtype, str, bool], ...] = (
        ("bfloat16", "bfloat16", "highest", True),
        ("TF32", "float32", "high", True),
        ("float32", "float32", "highest", True),
        ("float32, eager", "float32", "highest", False),
    )
    optimizers: tuple[tuple[str, OptimizerConfig], ...] = (("K-beta", KBETA), ("Adam", AdamWConfig()))
    jobs = tuple(
        Job(
            side=f"{name}, {precision}",
            kind="train",
            unit="steps/s",
            model=sizes.testbed,
            optimizer=optimizer,
            step=_step(device, dtype, compiled and sizes.compile, matmul_precision=products),
            rows=rows,
            length=sizes.testbed.seq_len,
            steps=steps,
            lr=1e-3,
        )
        for name, optimizer in optimizers
        for precision, dtype, products, compiled in precisions
    )
    jobs += tuple(
        job.model_copy(update={"side": f"{job.side}, {sizes.seeds} seeds", "seeds": sizes.seeds, "unit": SEED_STEPS})
        for job in jobs
        if job.side.endswith(", bfloat16")
    )
    c = sizes.testbed
    return Group("testbed", f"Testbed D, d {c.d_model} x {c.n_layers}, {rows} x {c.seq_len}", jobs)


def _bits(sizes: Sizes, device: str) -> Group:
    """30 steps twice, and stopped after 15 and resumed, with dropout and accumulation."""
    job = Job(
        side="eager",
        kind="bits",
        unit="equal",
        model=sizes.testbed.model_copy(update={"dropout": 0.1}),
        optimizer=KBETA.model_copy(update={"grad_clip": GRAD_CLIP}),
        step=_step(device, sizes.dtype, False, grad_accum_steps=2),
        rows=sizes.testbed_rows[0],
        length=sizes.testbed.seq_len,
        steps=30 if device == "cuda" else 4,
        lr=1e-3,
    )
    compiled = _with(job, "compiled", compile=sizes.compile)
    sure = _with(compiled, "compiled, deterministic", deterministic=True)
    return Group("bits", f"{job.steps} steps twice, and stopped and resumed", (job, compiled, sure))


def _gradients(sizes: Sizes, device: str) -> Group:
    job = Job(
        side="largest relative error of a gradient",
        kind="gradients",
        unit="relative",
        model=sizes.testbed,
        step=_step(device, "float32", False),
        rows=sizes.testbed_rows[0],
        length=min(128, sizes.testbed.seq_len),
        steps=10,
        lr=1e-3,
    )
    return Group("gradients", "float32 gradients and curve beside the CPU's", (job,))
