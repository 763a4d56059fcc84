"""The flags of transformer_lm; `workload` translates them into the project's terms."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from lm_core.config import Execution


class Flags(Execution):
    """Train a Transformer language model on a named dataset; called again, resume it. With --inference,
    let it continue your texts."""

    dataset: str = "ptb"
    """ptb, wikitext2, wikitext103, enwik8, text8 or tinyshakespeare; downloaded into the save folder, unless
    --data_dir has it."""
    data_dir: str = ""
    """Your own copy of the dataset: its folder, its archive, or the file of a dataset that is a single one."""
    tokenizer: str = ""
    """Tokenizer instead of the dataset's default (words, bytes or characters), as kind:path: bpe:FOLDER,
    hf:FILE, tiktoken:gpt2, ..."""
    save_dir: str = ""
    """Folder of all runs; if not given, transformer-lm on a RAM disk at /Volumes/RAMDisk, else runs/transformer-lm."""
    new_model: bool = False
    """Start a new model, beside the others. Without it, training resumes from the newest checkpoint in the save folder,
    with the flags it was trained with; flags given now override them."""
    identifier: str = ""
    """Use this checkpoint instead of the newest: its file name, or at least the first four letters. Training continues
    from it in a new run."""
    inference: bool = False
    """Continue prompts instead of training: those you type, or the lines of a pipe."""
    backend: Literal["auto", "torch", "mlx"] = "auto"
    """auto: MLX on Apple silicon, torch elsewhere."""
    gpu: bool = False
    """Use the GPU: Metal (MLX) or CUDA (torch)."""
    seed: int = Field(42, ge=0)
    """Seed of the weights, the batches, the dropout and the samples. --seeds 1 2 3 --save_dir S trains several models,
    each in a save folder of its own; with --together as one model, which fills a GPU (torch)."""
    context_size: int = Field(48, gt=0)
    """Context length, in tokens."""
    num_blocks: int = Field(4, gt=0)
    """Transformer blocks."""
    dim: int = Field(1024, gt=0)
    """Width of the residual stream."""
    num_heads: int = Field(8, gt=0)
    """Attention heads; must divide dim."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout probability."""
    checkpoint: bool = False
    """Gradient checkpointing: less memory for more time; the results stay the same."""
    batch_size: int = Field(32, gt=0)
    """Rows of a minibatch."""
    num_iters: int = Field(100000, gt=0)
    """Optimizer steps in total, including those before a resume."""
    learning_rate: float = Field(3e-4, gt=0)
    """Learning rate of AdamW."""
    lr_warmup: int = Field(0, ge=0)
    """Steps of linear learning-rate warm-up."""
    weight_decay: float = Field(1e-5, ge=0)
    """Decoupled weight decay, on matrices."""
    top_k: int = Field(50, ge=0)
    """For samples and --inference: choose among the k most likely tokens; 0: among all."""
    temperature: float = Field(0.5, ge=0)
    """For samples and --inference: below 1 likely tokens get likelier; 0 is greedy."""
    sample_tokens: int = Field(50, ge=0)
    """Length of the sample written at each save, in tokens; 0: none."""
    steps_per_report: int = Field(10, ge=0)
    """Steps between training records; 0: the first step alone."""
    steps_per_eval: int = Field(1000, ge=0)
    """Steps between validations, each over the whole split; 0: none."""
    steps_per_save: int = Field(1000, ge=0)
    """Steps between checkpoints; 0: only at the end, and on Ctrl-C."""
    keep: int = Field(2, gt=0)
    """Number of checkpoints of a run to keep, the newest."""
    eval_test: bool = False
    """Also measure the test split when training has ended."""
    config: str = ""
    """TOML file with any of these; flags on the command line win."""

    @property
    def absolute(self) -> "Flags":
        """The flags with paths that hold from any folder."""
        paths = {"data_dir": _absolute(self.data_dir), "tokenizer": _absolute_tokenizer(self.tokenizer)}
        return self.model_copy(update=paths)


def _absolute(path: str) -> str:
    """Return anything but a path unchanged."""
    return str(Path(path).resolve()) if path and Path(path).exists() else path


def _absolute_tokenizer(name: str) -> str:
    kind, colon, path = name.partition(":")
    if not colon or Path(name).exists():
        return _absolute(name)
    return name if kind == "tiktoken" else f"{kind}:{_absolute(path)}"
