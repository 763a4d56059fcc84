"""Search for a user's own copy of a dataset: by name in a folder, or a given file."""

from pathlib import Path

from lm_core.errors import UserError
from lm_pipeline.text.named.archive import is_archive
from lm_pipeline.text.named.table import Dataset


def local_files(dataset: Dataset, data_dir: Path) -> tuple[Path, ...]:
    """The dataset's files in the order of `dataset.files`, or the one archive that has them.

    Args:
        dataset: what to look for.
        data_dir: a folder that has it, or has a folder that has it; or the file itself: an archive, or the text of a
            dataset that is a single one, whatever it is called.

    Raises:
        UserError: when it is not there, saying what was looked for and where.
    """
    if data_dir.is_file():
        if len(dataset.files) == 1 or is_archive(data_dir):
            return (data_dir,)
        names = ", ".join(dataset.layouts[0])
        raise UserError(
            f"data_dir {data_dir} is one file, and {dataset.name} has three: give the folder that has {names}"
        )
    if not data_dir.is_dir():
        why = "neither a folder nor a file" if data_dir.exists() else "not there"
        raise UserError(f"data_dir {data_dir} is {why}; leave --data_dir out to download {dataset.name}")
    try:
        return _in_folders(dataset, data_dir)
    except OSError as error:
        raise UserError(f"cannot look for {dataset.name} in {data_dir}: {error.strerror}") from None


def _in_folders(dataset: Dataset, data_dir: Path) -> tuple[Path, ...]:
    incomplete = ""
    for folder in [data_dir, *(data_dir / name for name in (dataset.name, *dataset.folders))]:
        for layout in dataset.layouts:
            missing = [name for name in layout if not (folder / name).is_file()]
            if not missing:
                return tuple(folder / name for name in layout)
            if len(missing) < len(layout) and not incomplete:
                present = next(name for name in layout if name not in missing)
                incomplete = f"{folder} has {present} but no {' and no '.join(missing)}"
        for name in dataset.archives:
            if (folder / name).is_file():
                return (folder / name,)
    if incomplete:
        raise UserError(f"{dataset.name} is not complete: {incomplete}")
    names = [layout[0].replace("train", "{train,valid,test}") for layout in dataset.layouts]
    parquet = ["{train,validation,test}-00000-of-00001.parquet"] if dataset.hub_folders else []
    looked = " or ".join([*names, *dataset.archives, *parquet])
    inside = ", ".join(dict.fromkeys((dataset.name, *dataset.folders, *dataset.hub_folders)))
    raise UserError(
        f"no {dataset.name} in {data_dir}: looked for {looked}, there and in its folders {inside}; put it there, "
        "or leave --data_dir out to download it"
    )
