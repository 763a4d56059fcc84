"""WikiText as the Hugging Face Hub has it: parquet files, a row for each line of the text. Needs pyarrow.

A blank line, which is " \\n" in the published text, is an empty row there: so the text is made again, to the byte.
"""

from collections.abc import Iterator
from pathlib import Path

from lm_core.disk.files import write_pieces
from lm_core.errors import UserError
from lm_pipeline.text.named.table import SPLITS, Dataset
from lm_pipeline.text.tables import damage_named

_NAMES = ("{}-?????-of-?????.parquet", "wikitext-{}.parquet", "{}/????.parquet")
"""File names of a split: today, before, and in the branch that the Hub converts automatically."""
_COLUMN = "text"
_BLANK = " \n"

Shards = tuple[tuple[Path, ...], ...]
"""The files of each split, in order."""


def parquet_files(dataset: Dataset, data_dir: Path) -> Shards | None:
    """The parquet files of a dataset in a folder, or in one of its folders; None where there are none.

    Raises:
        UserError: when only some are there.
    """
    for folder in [data_dir, *(data_dir / name for name in dataset.hub_folders)] if dataset.hub_folders else []:
        for name in _NAMES:
            shards = tuple(tuple(sorted(folder.glob(name.format(split)))) for split in SPLITS)
            if all(shards):
                for files in shards:
                    _check_complete(files)
                return shards
            if shards[0]:
                missing = [name.format(split) for split, files in zip(SPLITS, shards, strict=True) if not files]
                raise UserError(f"{dataset.name} is not complete: {folder} has {shards[0][0].name} but no {missing[0]}")
    return None


def _check_complete(files: tuple[Path, ...]) -> None:
    total = files[0].stem.partition("-of-")[2]
    if total and len(files) != int(total):
        raise UserError(f"{files[0].parent} has {len(files)} of the {int(total)} files {files[0].name}, ...")


def write_text(files: tuple[Path, ...], target: Path, limit: int) -> None:
    """Write the text of a split to a file that has all of it or is not there.

    Raises:
        UserError: when a file is damaged or of another kind, or the text has more than `limit` bytes.
        OSError: when the target cannot be written.
    """
    write_pieces(target, _bounded(files, limit))


def _bounded(files: tuple[Path, ...], limit: int) -> Iterator[bytes]:
    for path in files:
        for data in _lines(path):
            limit -= len(data)
            if limit < 0:
                raise UserError(f"{path} has far more text than the dataset")
            yield data


def _lines(path: Path) -> Iterator[bytes]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{path} is parquet, which needs pyarrow: pip install pyarrow") from None
    # Opened here, for pyarrow takes no name that is not UTF-8.
    with damage_named("parquet", path), path.open("rb") as opened, pyarrow.parquet.ParquetFile(opened) as file:
        if _COLUMN not in file.schema_arrow.names or str(file.schema_arrow.field(_COLUMN).type) != "string":
            raise UserError(f"{path} has no column {_COLUMN!r} of text")
        for batch in file.iter_batches(columns=[_COLUMN]):
            yield "".join(row or _BLANK for row in batch.column(0).to_pylist()).encode()
