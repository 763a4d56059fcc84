"""`uv run apps/mini_gpt/sample_bpe.py`: flags -> checkpoint -> text, as `transformerlm-infer` writes it."""

import sys
from collections.abc import Sequence
from pathlib import Path

from lm_core.cli import parse_flags
from lm_core.config import SamplingConfig, StepConfig
from lm_core.errors import exit_code_of
from lm_core.run.folder import newest_run
from lm_pipeline.commands.infer import infer
from lm_pipeline.generation.config import InferConfig
from lm_pipeline.saved_model import Which
from mini_gpt.flags import SampleFlags
from mini_gpt.train import APP
from mini_gpt.workload import SAMPLE_COMMAND

NAMES: dict[str, Which] = {"bpe_best": "best", "mini_gpt_last": "latest"}


def main() -> int:
    """The program; returns its exit code."""
    return exit_code_of(lambda: sample(sys.argv[1:]), "sample_bpe")


def sample(argv: Sequence[str]) -> int:
    """Continue a prompt; returns the exit code."""
    flags = parse_flags(SampleFlags, SAMPLE_COMMAND, argv)
    folder, which = checkpoint_of(flags.ckpt)
    return infer(
        InferConfig(
            checkpoint=str(folder),
            which=which,
            prompt=(flags.prompt or "\n",),
            n=flags.n,
            max_new_tokens=flags.max_new_tokens,
            seed=flags.seed,
            backend=flags.backend,
            sampling=SamplingConfig(temperature=flags.temperature, top_k=flags.top_k, top_p=flags.top_p),
            step=StepConfig(device=flags.device),
        )
    )


def checkpoint_of(name: str, root: Path = APP.root) -> tuple[Path, Which]:
    """The folder that `--ckpt` names, and which of its checkpoints.

    Raises:
        UserError: when it names the newest run, and there is none.
    """
    path = Path(name).expanduser()
    which = NAMES.get(path.name)
    if which is None or path.is_dir():
        return path, "best"
    if path.name != name:
        return path.parent, which
    return newest_run(root, f"--ckpt {name}", "train one with train_bpe.py, or give a path").path, which
