"""`uv run apps/transformer_lm`: flags -> save folder -> corpus -> plan -> session; or, with --inference, -> prompts.

    new model            flags ----------------------------> run NNN-dataset in the save folder
    resuming             newest checkpoint -> its flags, changed by those given here -> the same run
    another checkpoint   --identifier -> its flags, changed ... -> a new run that begins there
    --inference          checkpoint -> decoder -> prompts

A framework is imported only after the flags and the text have been found good, so --help and mistakes answer at once.
"""

import contextlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lm_core.backend import Backend, load_backend
from lm_core.cli import parse_flags
from lm_core.disk.files import make_folder
from lm_core.errors import UserError
from lm_core.model.memory import check_memory, decoding_memory
from lm_core.model.parameters import check_weights
from lm_core.run import session
from lm_core.run.checkpoint import DamagedError
from lm_core.run.folder import RunFolder
from lm_core.run.plan import Plan
from lm_core.run.ranks import exit_code_of
from lm_core.run.resume import Recorded, recorded
from lm_core.run.seeds import for_each_seed, has_seeds
from lm_core.run.state import RunState, is_complete
from lm_core.terminal import say
from lm_core.world import current
from lm_pipeline.generation.prompt_loop import run_prompts
from lm_pipeline.generation.settings import Settings
from lm_pipeline.generation.writer import Model
from lm_pipeline.saved_model import load_tokenizer_of
from lm_pipeline.text.named import dataset_named
from lm_pipeline.tokens.named import load_corpus
from lm_pipeline.training import next_steps_of_seeds
from lm_tokenizer.errors import TokenizerError
from transformer_lm.flags import Flags
from transformer_lm.resume_policy import ADVICE, POLICY, SHAPE
from transformer_lm.save_folder import Found, SaveFolder, copy_into, default_folder
from transformer_lm.workload import COMMAND, model_of, plan, resumed, step_of

PROGRAM = "transformer_lm"
_METADATA = {"model", "tokenizer", "data", "state"}
"""Keys of the metadata of every checkpoint of this app."""


def main() -> int:
    """The program; returns its exit code."""
    return exit_code_of(lambda: command(sys.argv[1:]), PROGRAM)


def command(argv: Sequence[str]) -> int | None:
    """`run`, or with `--seeds` once for each of them, in save folders of their own that share their data."""
    run_one = partial(run, in_series=True) if has_seeds(argv) else run
    contradicts = ("seed", "new_model", "identifier", "inference")
    return for_each_seed(argv, run_one, resume=False, contradicts=contradicts, next_steps=next_steps_of_seeds)


def run(argv: Sequence[str], *, in_series: bool = False) -> int:
    """Train or resume a model, or continue prompts; returns the exit code.

    Raises:
        UserError: for a mistake in the flags or what they name; nothing has been written then.
        NonFiniteError: when training diverges.
    """
    flags = parse_flags(Flags, COMMAND, argv)
    dataset_named(flags.dataset)  # a run's own, which is checked later, may be resumed without it
    path = Path(flags.save_dir) if flags.save_dir else default_folder()
    folder = SaveFolder(path, path.parent / "data" if in_series else None)
    if flags.new_model and (flags.identifier or flags.inference):
        other = "--identifier" if flags.identifier else "--inference"
        raise UserError(f"--new_model and {other} contradict each other: leave one out")
    if flags.inference:
        return _talk(argv, flags, folder)
    with contextlib.ExitStack() as held:
        current().of_first(lambda: _hold(folder, held))
        _train(argv, flags, folder)
    return 0


def _hold(folder: SaveFolder, held: contextlib.ExitStack) -> None:
    held.enter_context(folder.hold())


def _train(argv: Sequence[str], flags: Flags, folder: SaveFolder) -> None:
    if current().of_first(lambda: current().recall(_key(folder)) is not None):  # its launcher has started it again
        flags = flags.model_copy(update={"new_model": False, "identifier": ""})
    found = None if flags.new_model else _find(folder, flags.identifier)
    known = _known(found) if found else None
    if found and known:
        flags = parse_flags(Flags, COMMAND, argv, known.base)
        if found.checkpoint:
            POLICY.check(known.before.absolute, flags.absolute, f"{found.name}: {ADVICE}")
        if flags.data_dir and not Path(flags.data_dir).exists():
            raise UserError(
                f"--data_dir {flags.data_dir}, where the run had its data, is not there: give its new place, or"
                " --data_dir '' to download it"
            )
    checkpoint = found.checkpoint if found else None
    tokenizer = load_tokenizer_of(found.run, checkpoint.metadata, found.name) if found and checkpoint else None
    model_of(flags, 1)  # heads that do not fit need no dataset to be seen, nor does a GPU that is not there
    if flags.gpu:
        _describe(load_backend(flags.backend), flags)
    # The first rank downloads and encodes, the others read what it has written.
    corpus = current().first_before_others(
        lambda: load_corpus(flags.dataset, flags.data_dir, tokenizer or flags.tokenizer, folder.data, say)
    )
    made = plan(flags, corpus, folder.path, argv)
    if not (found and known and checkpoint):
        if found:
            say(f"{found.name}: starting again at step 0, as a new run")
        session.run(made, partial(_start, folder, None, flags, made))
        return
    made = resumed(made, known)
    if found.is_resumed:
        session.run(made, found.run)
        return
    made.check_fits()
    if is_complete(made.loop, RunState.from_metadata(checkpoint.metadata)):
        say(f"{found.name} is complete: --num_iters above {checkpoint.step:,} starts a new run there")
        return
    say(f"starting a new run from {found.name}")
    session.run(made, partial(_start, folder, found, flags, made))


def _start(folder: SaveFolder, source: Found | None, flags: Flags, made: Plan) -> RunFolder:
    """The folder of a new run, which appears whole or never; with the checkpoint that it starts from, if any."""

    def fill(run_folder: RunFolder) -> None:
        make_folder(run_folder.tokenizer)
        made.tokenizer.save(run_folder.tokenizer)
        if source:
            copy_into(run_folder, source)
        run_folder.prepare(made.config_toml())

    try:
        run = folder.begin(flags.dataset, fill)
        current().remember(_key(folder), "")
        return run
    except (OSError, TokenizerError) as error:
        raise UserError(f"cannot write to {folder.path}: {getattr(error, 'strerror', None) or error}") from None


def _key(folder: SaveFolder) -> str:
    """Under which the ranks remember that they have started a run."""
    return f"run in {folder.path.resolve()}"


def _find(folder: SaveFolder, identifier: str, *, saved: bool = False) -> Found | None:
    try:
        found = folder.find(identifier, say, saved=saved)
    except DamagedError as error:
        raise UserError(f"--identifier {identifier}: {error}; give another, or none for the newest good one") from None
    if found and found.checkpoint and not found.checkpoint.metadata.keys() >= _METADATA:
        raise UserError(f"{found.name} was not saved by {PROGRAM}")
    return found


def _known(found: Found) -> Recorded[Flags]:
    return recorded(Flags, POLICY, found.run, found.checkpoint, resumed=found.is_resumed)


def _describe(backend: Backend, flags: Flags) -> str:
    try:
        return backend.describe(step_of(flags))
    except UserError as error:
        if not flags.gpu:
            raise
        why = str(error).removeprefix("device gpu: ").partition(";")[0]
        raise UserError(f"--gpu: {why}; use the CPU with --no_gpu") from None


def _talk(argv: Sequence[str], flags: Flags, folder: SaveFolder) -> int:
    found = _find(folder, flags.identifier, saved=True)
    if found is None or found.checkpoint is None:
        raise UserError(
            f"--inference: there is no checkpoint in {folder.path}: train a model first, or give its --save_dir"
        )
    known, checkpoint = _known(found), found.checkpoint
    flags = parse_flags(Flags, COMMAND, argv, known.base)
    POLICY.check(known.before.absolute, flags.absolute, f"{found.name}: leave these flags out", SHAPE)
    tokenizer = load_tokenizer_of(found.run, checkpoint.metadata, found.name)
    model = model_of(flags, tokenizer.vocab_size)
    check_weights(model, checkpoint.weights, found.name)
    backend = load_backend(flags.backend)
    about = _describe(backend, flags)
    check_memory(decoding_memory(model, step_of(flags), 1), backend.memory(step_of(flags)), "decoding")
    decoder = backend.decoder(model, step_of(flags), checkpoint.weights, 1, tokenizer.vocab_size)
    settings = Settings(top_k=flags.top_k, temperature=flags.temperature, seed=flags.seed)
    return run_prompts(Model(f"{found.name}; {about}", model, tokenizer, decoder), settings)
