"""Named texts for language models: found where a person has them, or downloaded and verified.

files = find_dataset("wikitext2", None, Path.home() / ".cache" / "lm", print)
files.read("validation")  # bytes
"""

from lm_pipeline.text.named.files import DatasetFiles, Span
from lm_pipeline.text.named.find import dataset_named, find_dataset
from lm_pipeline.text.named.table import DATASETS, SPLITS, Dataset, Split, TextFile, Unit

__all__ = [
    "DATASETS",
    "SPLITS",
    "Dataset",
    "DatasetFiles",
    "Span",
    "Split",
    "TextFile",
    "Unit",
    "dataset_named",
    "find_dataset",
]
