"""A named dataset: the person's own copy, the verified one in the cache, or a download into the cache.

data_dir -> layouts or parquet -> (unpacked into CACHE/NAME/from-HASH) -> looked through \\
no data_dir -> CACHE/NAME, verified -> else the sources in turn -> (unpacked) -> verified -> DatasetFiles

Downloads are what the hashes in the table say, or are refused. A person's own copy may be another edition; then a line
says so, since its results do not compare with published ones.
"""

import contextlib
import difflib
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lm_core.disk.files import make_folder
from lm_core.disk.lock import open_lock
from lm_core.errors import UserError
from lm_pipeline.text.named.archive import extract, is_archive
from lm_pipeline.text.named.download import DownloadError, Patience, download, hash_matches, write_failure
from lm_pipeline.text.named.files import DatasetFiles, check_text, dataset_files
from lm_pipeline.text.named.layouts import local_files
from lm_pipeline.text.named.parquet import Shards, parquet_files, write_text
from lm_pipeline.text.named.table import DATASETS, Dataset

Say = Callable[[str], None]


def dataset_named(name: str, datasets: Mapping[str, Dataset] = DATASETS) -> Dataset:
    """A known dataset.

    Raises:
        UserError: when there is none of this name.
    """
    if name not in datasets:
        raise UserError(f"unknown dataset {name!r}; {_meant(name, datasets)}")
    return datasets[name]


def find_dataset(
    name: str,
    data_dir: Path | None,
    cache: Path,
    say: Say,
    *,
    datasets: Mapping[str, Dataset] = DATASETS,
    patience: Patience | None = None,
) -> DatasetFiles:
    """The files of a named dataset.

    Args:
        name: one of `datasets`.
        data_dir: a folder that has it, or its file or archive; without one, it comes from the cache or the web.
        cache: a folder for what is downloaded or unpacked, each dataset in a folder of its own.
        say: called with lines on what is downloaded, unpacked, or not as published.
        datasets: what is known.
        patience: with slow servers.

    Raises:
        UserError: when there is no such dataset, it is missing in `data_dir` or unusable as text, or no source
            has it. The line says what to do.
    """
    dataset = dataset_named(name, datasets)
    folder = cache / dataset.name
    try:
        if data_dir is not None:
            return _own(dataset, data_dir, cache, say)
        paths = tuple(folder / file.name for file in dataset.files)
        if not _verified(dataset, folder):
            with _alone(folder, cache, say):
                if not _verified(dataset, folder):  # another process may have done it meanwhile
                    _download(dataset, folder, say, patience)
        return dataset_files(dataset, paths)
    except OSError as error:
        raise write_failure(error, Path(error.filename or folder)) from None


def _meant(name: str, datasets: Mapping[str, Dataset]) -> str:
    plain = "".join(character for character in name.lower() if character.isalnum())
    near = difflib.get_close_matches(plain, datasets, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(datasets))}"


def _own(dataset: Dataset, data_dir: Path, cache: Path, say: Say) -> DatasetFiles:
    shards = parquet_files(dataset, data_dir)
    paths = _joined(dataset, shards, cache, say) if shards else local_files(dataset, data_dir)
    if is_archive(paths[0]):
        paths = _unpacked(dataset, paths[0], cache, say)
    other = []
    for path, file in zip(paths, dataset.files, strict=True):
        algorithm, _, published = file.known_hash.partition(":")
        if check_text(path, dataset.unit, algorithm) != published:
            other.append(str(path))
    if other:
        say(f"note: not as published for {dataset.name}, so results do not compare: {', '.join(other)}")
    return dataset_files(dataset, paths)


def _unpacked(dataset: Dataset, archive: Path, cache: Path, say: Say) -> tuple[Path, ...]:
    """The files of a person's archive, in a folder that is named by its content."""
    target = cache / dataset.name / f"from-{check_text(archive, 'byte', 'sha256')[:16]}"
    paths = tuple(target / file.name for file in dataset.files)
    with _alone(target, cache, say):
        if not all(path.is_file() for path in paths):
            say(f"unpacking {archive} into {target}")
            extract(archive, _wanted(dataset), target, dataset.limit)
    return paths


def _joined(dataset: Dataset, shards: Shards, cache: Path, say: Say) -> tuple[Path, ...]:
    """The texts of a person's parquet files, in a folder that is named by their content."""
    hashes = [check_text(path, "byte", "sha256") for files in shards for path in files]
    target = cache / dataset.name / f"from-{hashlib.sha256(' '.join(hashes).encode()).hexdigest()[:16]}"
    paths = tuple(target / file.name for file in dataset.files)
    with _alone(target, cache, say):
        for path, files in zip(paths, shards, strict=True):
            if not path.is_file():
                say(f"writing the text of {files[0]}{', ...' if files[1:] else ''} into {path}")
                write_text(files, path, dataset.limit)
    return paths


def _wanted(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    return {
        file.name: (file.name, *(layout[i] for layout in dataset.layouts if layout[i] != file.name))
        for i, file in enumerate(dataset.files)
    }


def _verified(dataset: Dataset, folder: Path) -> bool:
    return all(_is_published(folder / file.name, file.known_hash) for file in dataset.files)


def _is_published(path: Path, known_hash: str) -> bool:
    return path.is_file() and hash_matches(path, known_hash)


def _download(dataset: Dataset, folder: Path, say: Say, patience: Patience | None) -> None:
    reasons: list[str] = []
    for source in dataset.sources:
        try:
            for remote in source:
                was_there = (folder / remote.name).exists()
                path = download(remote, folder, say, patience)
                if remote.name not in [file.name for file in dataset.files]:
                    extract(path, _wanted(dataset), folder, dataset.limit)
                    if not was_there:  # else somebody put it there
                        path.unlink()
        except DownloadError as error:
            reasons += error.reasons
            continue
        if _verified(dataset, folder):
            return
        reasons.append(f"{source[0].urls[0]}: what it has is not the published text")
    raise DownloadError(dataset.name, reasons)


@contextlib.contextmanager
def _alone(folder: Path, cache: Path, say: Say) -> Iterator[None]:
    """A context that one process at a time is in, for each folder of the cache; the others wait."""
    make_folder(folder, within=cache)
    with os.fdopen(open_lock(folder / "lock"), "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is busy in {folder}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):  # a file system without locks
                raise
        yield
