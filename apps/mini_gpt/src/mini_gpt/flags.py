"""The flags of the two programs; `workload` translates those of training into the project's terms."""

from typing import Literal

from pydantic import Field

from lm_core.config import Config
from lm_core.run.app import RunFlags
from lm_pipeline.tokens.in_memory import Kind


class Flags(RunFlags):
    """Train a tokenizer and a small GPT on your own text."""

    data_file: str = ""
    """Text file to train on; its last tenth is held out for validation."""
    data_dir: str = ""
    """Folder to train on, with all below it: .txt, .md, .py, .js, .ts, .java, .go, .rs, .c and .cpp files. Hidden,
    binary, huge and repeated files are skipped, and what .gitignore names. Every tenth document, about, is held out.
    Without either, it trains on 5 MB of this Python's own standard library."""
    include: tuple[str, ...] = ()
    """Patterns of more files in the folder, such as "*.tex" or "letters/**"."""
    tokenizer: Kind = "ours"
    """Tokenizer to learn: ours (byte-level BPE), hf (Hugging Face tokenizers) or sentencepiece."""
    vocab_size: int = Field(8000, gt=0)
    """Most tokens that it has; a small text gives fewer."""
    block_size: int = Field(256, gt=0)
    """Context length, in tokens."""
    n_layer: int = Field(6, gt=0)
    """Transformer blocks."""
    n_embed: int = Field(384, gt=0)
    """Width of the residual stream."""
    n_head: int = Field(6, gt=0)
    """Attention heads; must divide n_embed."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout probability."""
    batch_size: int = Field(128, gt=0)
    """Rows of a micro-batch: what is in memory at once."""
    grad_accum_steps: int = Field(2, gt=0)
    """Micro-batches per step."""
    max_steps: int = Field(3000, gt=0)
    """Optimizer steps."""
    base_lr: float = Field(1e-3, gt=0)
    """Learning rate after the warm-up."""
    use_cosine: bool = False
    """Let the learning rate fall along a cosine; else it stays."""
    warmup_steps: int = Field(200, ge=0)
    """Steps of linear warm-up."""
    min_factor: float = Field(0.1, ge=0, le=1)
    """Where the cosine ends, as a factor of base_lr."""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled weight decay of AdamW, on matrices."""
    amp: bool = False
    """Mixed precision: the same as --dtype bfloat16."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time, the same results."""
    eval_every: int = Field(250, ge=0)
    """Steps between validations; 0: the first and the last alone."""
    eval_tokens: int = Field(500_000, gt=0)
    """Most tokens of a validation, the first ones of what is held out."""
    save_every: int = Field(500, ge=0)
    """Steps between checkpoints (the best is kept besides); 0: only at the end and on Ctrl-C."""
    log_every: int = Field(20, ge=0)
    """Steps between training records; 0: the first step alone."""
    sample: int = Field(120, ge=0)
    """Tokens of the sample written at each save; 0: none."""


class SampleFlags(Config):
    """Let a model that train_bpe.py trained continue a prompt."""

    ckpt: str = "bpe_best"
    """bpe_best (lowest validation loss) or mini_gpt_last (latest) of the newest run under runs/mini_gpt; or the path
    of a run folder, of either name in one, or of a Hugging Face model."""
    prompt: str = ""
    """Text to continue; - reads standard input; without one, it starts a line."""
    temperature: float = Field(0.8, ge=0)
    """Below 1 likely tokens get likelier; 0 always takes the likeliest."""
    top_k: int = Field(80, ge=0)
    """Choose among the k likeliest tokens; 0: among all."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Choose among the likeliest tokens that together have this probability."""
    max_new_tokens: int = Field(300, gt=0)
    """Most tokens to write."""
    n: int = Field(1, gt=0)
    """Number of continuations; a single one is printed as it is written."""
    seed: int = Field(0, ge=0)
    """Seed of the first continuation; each further one uses the next."""
    backend: Literal["auto", "torch", "mlx"] = "auto"
    """auto: MLX on Apple silicon, torch elsewhere; the text is the same."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: CUDA (torch) or Metal (MLX) if there is one."""
