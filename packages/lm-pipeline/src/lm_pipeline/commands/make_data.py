"""`transformerlm-make-data`: text -> token files.

    config --plan--> job --encode_units--> .parts/ --join--> train.npy, validation.npy, each with its sidecar
                                      '--> with `shards`: 000000.train.npy, ..., and stream.json when that is all

The parts are removed when the token files are on disk, and not before: killed at any moment and run again, it resumes
and ends with the same bytes. The sidecars of a pair name it, so one that is replaced only in half is noticed. Shards
are parts that stay, and may be trained on meanwhile.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import get_args

from tqdm import tqdm

from lm_core.data.shards import locked
from lm_core.data.token_file import TokenFile, TokenMetadata, read_sidecar, sidecar_of
from lm_core.disk.files import write_whole
from lm_core.disk.untrusted import may_pass, read_regular
from lm_core.errors import UnreadableError, UserError
from lm_core.file_names import toml_bytes
from lm_core.terminal import put, say
from lm_pipeline.program import run_program
from lm_pipeline.tokens.config import MakeDataConfig
from lm_pipeline.tokens.encoding import Encoder, encode_units
from lm_pipeline.tokens.job import Job, NoDocumentsError, Split, no_documents, plan
from lm_pipeline.tokens.shards import complete, complete_record
from lm_pipeline.tokens.tokenizers import load_tokenizer
from lm_pipeline.tokens.units import CONFIG_NAME, Parts, Progress
from lm_pipeline.workers import LOCAL, workers
from lm_tokenizer.errors import TokenizerError

PROGRAM = "transformerlm-make-data"
LONGEST_CONFIG = 1 << 20
COPIED_AT_ONCE = 1 << 22


def main() -> int:
    """The program; returns its exit code."""
    return run_program(MakeDataConfig, PROGRAM, make_data)


def make_data(config: MakeDataConfig, needed: Callable[[], bool] = lambda: True) -> None:
    """Write the token files that the config describes, or say that they are there.

    Args:
        config: what to do.
        needed: whether units that are finished stay when the text turns out to have a mistake.

    Raises:
        UserError: for a mistake in config or corpus, and when the output cannot be written.
    """
    for key in ("tokenizer", "output"):
        if not getattr(config, key):
            raise UserError(f"{key}: give a path")
    tokenizer = load_tokenizer(config.tokenizer)
    job = plan(config, tokenizer)
    threads = config.threads or None if config.on == LOCAL else 1  # each worker of Ray has one
    encoder = Encoder(tokenizer, job, config.special_tokens, config.eos_between_documents, threads)
    output = Path(config.output)
    try:
        with made_folder(output), locked(output):
            (_make_shards if config.shards else _make)(config, encoder, output, needed)
    except TokenizerError as error:  # those about the corpus have become UserErrors: this one is about writing
        raise UserError(f"{error}; what is finished is kept: run the same command to resume") from error
    except OSError as error:
        raise UserError(f"cannot write to output {error.filename or output}: {error.strerror}") from error


def _make(config: MakeDataConfig, encoder: Encoder, output: Path, needed: Callable[[], bool]) -> None:
    parts = Parts(output / ".parts", encoder.job.fingerprint)
    made = finished(encoder.job, output)
    if made:
        say(f"nothing to do: {output} was made from this config and these inputs")
    else:
        _check_replaceable(output, config)
        with _opened(parts, needed):
            _encode(config, encoder, parts)
            made = join(encoder, parts, output, config.recorded())
    parts.remove()
    for line in parts.flaws(encoder.job.files).lines():
        say(line)
    for split, file in made.items():
        _put_totals(f"{output / split}.npy", file.tokens, file.documents, file.bytes)


def _make_shards(config: MakeDataConfig, encoder: Encoder, output: Path, needed: Callable[[], bool]) -> None:
    parts = Parts(output, encoder.job.fingerprint, stay=True)
    with _opened(parts, needed):
        record = complete_record(parts)
        if record:
            say(f"nothing to do: {output} was made from this config and these inputs")
        else:
            _encode(config, encoder, parts)
            record = complete(encoder.job, parts, config.recorded())
    for line in parts.flaws(encoder.job.files).lines():
        say(line)
    for split in encoder.job.splits:
        _put_totals(f"{output}/*.{split}.npy", record.tokens[split], record.documents[split], record.bytes[split])


@contextmanager
def _opened(parts: Parts, needed: Callable[[], bool]) -> Iterator[None]:
    """Hold the units of a job; what nobody needs or can resume from is removed when the block fails."""
    try:
        parts.open()
        yield
    except BaseException as error:
        # The same command ends with the same mistake, but where something could not be read just now.
        is_final = isinstance(error, UserError) and not isinstance(error, UnreadableError)
        if not parts.units or isinstance(error, NoDocumentsError) or (is_final and not needed()):
            parts.forget()
        raise


def _encode(config: MakeDataConfig, encoder: Encoder, parts: Parts) -> None:
    """Write the units that are not there yet."""
    if parts.units:
        say(f"resuming after {len(parts.units)} finished units")
    for line in encoder.job.left_out:
        say(line)
    count = 1 if config.on == LOCAL else config.threads  # here, the threads share each batch
    with workers(config.on, count) as pool, _bar(encoder.job, parts.progress) as show:
        encode_units(encoder, parts, config.shard_bytes, show, pool)


def _put_totals(name: str, tokens: int, documents: int, size: int) -> None:
    put(f"{name}: {tokens:,} tokens, {documents:,} documents, {size:,} bytes ({size / tokens:.2f} per token)")


def finished(job: Job, output: Path) -> dict[Split, TokenMetadata]:
    """Metadata of the job's token files, if all are there and intact; else nothing.

    Raises:
        UnreadableError: when one cannot be read at the moment; they are not rebuilt for that.
    """
    try:
        found = {split: TokenFile.open(output / f"{split}.npy").metadata for split in job.splits}
    except UnreadableError:
        raise
    except UserError:
        return {}
    return found if all(metadata.source == job.fingerprint for metadata in found.values()) else {}


def join(encoder: Encoder, parts: Parts, output: Path, config: str) -> dict[Split, TokenMetadata]:
    """Make the token files of the parts, and write the config beside them.

    Raises:
        NoDocumentsError: when a split would be empty.
        UserError: when a part is damaged.
    """
    job = encoder.job
    with ExitStack() as stack:
        files = {split: stack.enter_context(encoder.writer(output / f"{split}.npy")) for split in job.splits}
        for split, file in files.items():
            for part in parts.token_files(split):
                for start in range(0, len(part), COPIED_AT_ONCE):
                    file.write(part.tokens[start : start + COPIED_AT_ONCE])
                file.write(part.tokens[:0], part.metadata.bytes, part.metadata.documents)
        if not all(file.tokens for file in files.values()):
            raise NoDocumentsError(no_documents(job, parts.progress.documents, [*parts.flaws(job.files).lines()]))
        for file in files.values():
            file.finish()  # all are on the disk before the first replaces an old one
        write_whole(output / CONFIG_NAME, toml_bytes(config))
        for split in set(get_args(Split)) - set(files):  # else it would seem to belong to the new ones
            (output / f"{split}.npy").unlink(missing_ok=True)
            sidecar_of(output / f"{split}.npy").unlink(missing_ok=True)
    return {split: read_sidecar(file.path) for split, file in files.items()}


def _check_replaceable(output: Path, config: MakeDataConfig) -> None:
    """Report that token files of another config will be replaced; refuse a file that is not a token file."""
    there = [path for split in get_args(Split) if (path := output / f"{split}.npy").exists()]
    for path in there:
        try:
            read_sidecar(path)
        except UnreadableError:
            raise
        except UserError:
            raise UserError(f"{path} is not a complete token file: remove it, or give another output") from None
    for split in get_args(Split):
        _check_sidecar(sidecar_of(output / f"{split}.npy"))
    _check_config_file(output / CONFIG_NAME, config, replaced=bool(there))
    if there:
        say(f"the token files in {output} were made from another config or other inputs, and will be replaced")


def _check_sidecar(path: Path) -> None:
    """One without its token file is of a call that was killed, or no sidecar at all."""
    if not os.path.lexists(path):
        return
    with suppress(ValueError, TypeError, RecursionError):
        if "sidecar_sha256" in json.loads(_held(path)):
            return
    raise UserError(f"{path} is not a sidecar of a token file: move it, or give another output")


def _check_config_file(path: Path, config: MakeDataConfig, *, replaced: bool) -> None:
    """Refuse a config without token files, which make-data did not write."""
    if not path.is_symlink() and (replaced or not path.exists()):
        return
    if _held(path) == toml_bytes(config.recorded()):  # of a call that was killed
        return
    raise UserError(
        f"{path} has no token files beside it, so make-data did not write it: move it, or give another output"
    )


def _held(path: Path) -> bytes:
    """Content of a small file; empty if there is none, or it is something else."""
    try:
        return read_regular(path, LONGEST_CONFIG)
    except OSError as error:
        if may_pass(error):
            raise UnreadableError(f"cannot read {path}: {error.strerror}; try again") from None
        return b""


def missing_folders(folder: Path) -> list[Path]:
    """A folder and those above it that are not there, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder and its parents; if the work in it fails and leaves the new ones empty, they are removed."""
    new = missing_folders(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # one that holds something, and so do those above it
            for path in new:
                path.rmdir()
        raise


@contextmanager
def _bar(job: Job, start: Progress):  # type: ignore[no-untyped-def]
    """A progress bar over the bytes of all files, on a terminal; yields what moves it."""
    before = [0]
    for file in job.files:
        before.append(before[-1] + file.size)
    with tqdm(total=job.size, unit="B", unit_scale=True, desc="encoding", disable=None) as bar:

        def show(progress: Progress) -> None:
            bar.update(before[progress.file] + min(progress.offset, job.files[progress.file].size) - bar.n)

        show(start)
        yield show


if __name__ == "__main__":
    sys.exit(main())
