"""The flags of each command."""

from typing import Literal, get_args

from pydantic import Field

from lm_core.config import Config

BackendName = Literal["torch", "mlx"]


class Printed(Config):
    """Flags of every command that prints results."""

    output: Literal["table", "json"] = "table"
    """Form of the output on stdout; --json is short for --output json."""
    config: str = ""
    """TOML file with any of these; flags on the command line win."""


class AllFlags(Config):
    """The short form of every table on this machine, as one Markdown page; leave the machine idle meanwhile."""

    minutes: float = Field(20, gt=0)
    """Time for all of it: more rounds with more; what is not reached says so."""
    out: str = "benchmarks.md"
    """File that gets each table as soon as it is there; none when empty."""
    config: str = ""
    """TOML file with any of these; flags on the command line win."""


class SavingFlags(Printed):
    """How long a save of 500 MB holds training up: the snapshot alone, and with the thread that writes it."""

    backend: Literal[BackendName, "both"] = "both"
    """Which backend."""
    rounds: int = Field(5, gt=0)
    """Snapshots to time; rounds of steps with a save against steps without."""
    steps: int = Field(30, ge=10)
    """Steps per block; enough for the thread to end among them."""
    compile: bool = False
    """Let the framework compile the step."""


class DataFlags(Printed):
    """How many tokens a second one core reads, encodes and packs, from each kind of source."""

    text: str = ""
    """Text to read, such as one of lm-bench corpus."""
    document_size: int = Field(2_000, gt=0)
    """Characters per document."""
    vocab_size: int = Field(8_192, ge=512)
    """Vocabulary of the tokenizer, which is learned from the text."""
    rounds: int = Field(3, gt=0)
    """Rounds, after one that does not count."""


InferCase = Literal["nanogpt-char", "gpt2-124m"]
TrainCase = Literal[InferCase, "testbed-d", "ptb64", "blocks12"]
TrainPart = Literal["forward_backward", "step", "memory", "loop", "convergence"]
TrainPeer = Literal["plain", "plain-fused", "huggingface", "checkpointing"]


class TrainFlags(Printed):
    """Train with our backend, with a plain loop and with Hugging Face's GPT-2, interleaved in one run."""

    backend: BackendName = "torch"
    """Which of our backends; Hugging Face and the fused AdamW are torch's alone."""
    cases: tuple[TrainCase, ...] = get_args(InferCase)
    """Which models."""
    parts: tuple[TrainPart, ...] = ("forward_backward", "step", "memory", "loop")
    """Measurements; convergence needs a text."""
    peers: tuple[TrainPeer, ...] = ("plain", "huggingface")
    """Against what; plain-fused is the plain loop with AdamW(fused=True), checkpointing our own step with gradient
    checkpointing. One that is not installed is skipped."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of our activations. With bfloat16 every peer runs twice: in float32, and under bfloat16 autocast."""
    compile: bool = False
    """Let the framework compile every side."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: CUDA if there is one."""
    batch_size: int = Field(0, ge=0)
    """Rows per step; 0: the case's own."""
    seq_len: int = Field(0, ge=0)
    """Tokens per row; 0: the case's own."""
    rounds: int = Field(7, gt=0)
    """Rounds; each times one block of every side, and gives one ratio for each peer."""
    steps: int = Field(0, ge=0)
    """Steps per block; 0: the case's own."""
    loop_steps: int = Field(200, gt=0, multiple_of=100)
    """loop: steps per block; a checkpoint is written every 100."""
    text: str = ""
    """convergence: UTF-8 text, of which the last tenth is for validation."""
    iterations: int = Field(2000, ge=20)
    """convergence: steps to train."""


class InferFlags(Printed):
    """Decode greedily with our KV cache and with Hugging Face's `generate`, interleaved in one run."""

    cases: tuple[InferCase, ...] = get_args(InferCase)
    """Which models."""
    rows: tuple[int, ...] = (1,)
    """How many texts at once; each number is measured on its own."""
    tokens: int = Field(128, gt=1)
    """Ids to decode after the prompt."""
    prompt_tokens: int = Field(32, gt=0)
    """Ids in the prompt."""
    rounds: int = Field(7, gt=0)
    """Rounds; each decodes once with either side, and gives one ratio."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of weights and activations while decoding, on both sides."""
    compile: bool = False
    """Let torch compile our decoding step; theirs gets a static cache, with which it compiles itself on a GPU."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: CUDA if there is one."""


GpuPart = Literal["card", "train", "decode", "testbed", "large", "bits", "gradients"]


class GpuFlags(Printed):
    """Measure training and decoding on a GPU beside the peers, in one call of minutes; tiny shapes on a CPU."""

    parts: tuple[GpuPart, ...] = get_args(GpuPart)
    """Measurements: the card, training 124 M, decoding, Testbed D, training 350 M, equal bits, gradients."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: CUDA if there is one."""
    budget_seconds: float = Field(480, gt=0)
    """Seconds for all measurements: one that has not started by then, or is not done, is skipped."""
    rounds: int = Field(5, gt=0)
    """Rounds; each times one block of every side of a group, and gives one ratio."""
    processes: int = Field(0, ge=0)
    """How many sides compile at once, each in a process of its own; 0: as many as there are cores."""
    out: str = ""
    """File that gets each row as one line of JSON as soon as it is there; none when empty."""


class FaultsFlags(Config):
    """Train in child processes and hurt them: kills, power cuts, full disks, flipped bits, malicious files.

    Exit code 1 when a checkpoint was lost or a resumed run differs from the uninterrupted one.
    """

    backend: Literal[BackendName, "both"] = "both"
    """Which backend."""
    only: tuple[str, ...] = ()
    """Of save, power, kill, chain, commands, interrupt, second, steps, damage, poison, places, malice; default: all."""
    short: bool = False
    """A few trials of each row, which takes seconds."""
    seed: int = Field(0, ge=0)
    """Of every choice; the same seed makes the same trials."""
    keep: bool = False
    """Keep the folders of trials that failed."""
    results: tuple[str, ...] = ()
    """JSON of earlier campaigns, to be printed in one table; nothing is run."""
    output: Literal["table", "json", "markdown"] = "table"
    """Form of the output on stdout; --json is short for --output json."""
    config: str = ""
    """TOML file with any of these; flags on the command line win."""


class VerifyFlags(Printed):
    """Check run folders: hashes, finiteness and lineage of checkpoints, the config, the log. Nothing is changed.

    Exit code 0 when all is sound, 1 when something is damaged, 2 when there is no such run.
    """


class CompareFlags(Printed):
    """Compare runs of any app: tables on stdout, and a page with the curves.

    Runs whose configs differ in the seed alone are one group, with mean and interval; the others are compared with the
    group of the first run, on the seeds that both have.
    """

    out: str = "compare.html"
    """File for the curves: .html, which has the tables too and loads nothing, or .png; none when empty."""
    target: float | None = None
    """Validation loss in nats: steps and time to reach it are compared."""


Part = Literal["train", "encode", "decode", "start", "linear", "pathological"]
Peer = Literal["gigatoken", "fastokens", "tiktoken", "tokenizers", "sentencepiece", "rustbpe"]


class TokenizerFlags(Printed):
    """Time our tokenizer against the libraries that are installed, interleaved in one run."""

    corpora: tuple[str, ...] = ()
    """Text files; each is measured on its own. `lm-bench corpus` makes some."""
    vocab_json: str = ""
    """GPT-2's `vocab.json`."""
    merges: str = ""
    """GPT-2's `merges.txt`."""
    parts: tuple[Part, ...] = get_args(Part)
    """Measurements."""
    peers: tuple[Peer, ...] = get_args(Peer)
    """Against which libraries; one that is not installed is named and skipped."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of threads to encode with; training gets the largest."""
    rounds: int = Field(7, gt=0)
    """Rounds; each times every side once, and gives one ratio."""
    train_rounds: int = Field(3, gt=0)
    """The same for training."""
    train_size: int = Field(32_000, gt=256)
    """Tokens to learn."""
    train_timeout: float = Field(900, gt=0)
    """Seconds after which a library's training is given up."""
    slow_size: int = Field(10_000_000, gt=0)
    """Bytes of the corpus that the slow libraries are timed on; all of it is encoded once, to compare the ids."""


class ScaleFlags(Config):
    """Print the tables of docs/scale.md: memory, communication, saves against failures, stragglers, by paper."""

    save_seconds: float = Field(10, gt=0)
    """Seconds that a save holds training up."""
    restart_seconds: float = Field(300, ge=0)
    """Seconds from a failure to the next step."""
    gpu_hours: float = Field(50_700, gt=0)
    """Hours of one GPU between failures: in training Llama 3, 419 in 54 days of 16,384 of them."""
    spread: float = Field(0.03, gt=0)
    """By which part of itself a rank's time of a step varies."""
    seed: int = Field(0, ge=0)
    """Of the simulations."""
    config: str = ""
    """TOML file with any of these; flags on the command line win."""


class CorpusFlags(Config):
    """Write one text file of a given size out of the texts at hand: distinct files, in the order of their hashes."""

    out: str = "corpus.txt"
    """The file to write."""
    size: int = Field(100_000_000, gt=0)
    """Bytes at most; the cut is at a line end."""
    sources: tuple[str, ...] = (".",)
    """Files, and folders to look through."""
    suffixes: tuple[str, ...] = (".txt", ".md", ".rst", ".html")
    """Which files of a folder to take, by the ends of their names. HTML loses its tags."""
    config: str = ""
    """TOML file with any of these; flags on the command line win."""


class StudyFlags(Config):
    """Run a study: arms x seeds x budgets, tuned, paired and checked as its file says. The same command resumes it.

    Exit code 1 when --challenge finds that a published study does not agree, 130 when it was stopped.
    """

    variant: str = ""
    """One of the study's variants; when empty, all of them, one after the other."""
    save_dir: str = ""
    """Folder of the study, and of its variants' folders; runs/studies/<its name> when empty."""
    dry_run: bool = False
    """Print the plan with its cost, timed on a short run, and write nothing."""
    challenge: str = ""
    """Folder of a study that was published: run it again and report agreement."""
    workers: int = Field(0, ge=0)
    """Runs at once; 0: as the study says, or as many as the cores have threads for; on Ray one for each GPU, or for
    each core where there is none."""
    on: str = "local"
    """Where runs run: local, ray (started on this machine), or a Ray cluster: ray://host:10001, host:6379, auto."""
    retry: bool = False
    """Run again what has failed or ran out of memory."""
    keep: bool = False
    """Keep the checkpoints of finished runs."""
    config: str = ""
    """TOML file with any of these; flags on the command line win."""
