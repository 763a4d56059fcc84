"""The libraries behind one signature. Each is imported by the process that measures it, and by no other."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from lm_bench.tokenizer.libraries.fast import Fastokens, Gigatoken, Rustbpe
from lm_bench.tokenizer.libraries.library import Library, Merges
from lm_bench.tokenizer.libraries.ours import OURS, Ours
from lm_bench.tokenizer.libraries.standard import HuggingFace, SentencePiece, Tiktoken

LIBRARIES: dict[str, Library] = {
    library.name: library
    for library in (Ours(), Gigatoken(), Fastokens(), Tiktoken(), HuggingFace(), SentencePiece(), Rustbpe())
}
__all__ = ["LIBRARIES", "OURS", "Library", "Merges", "describe", "installed"]


def installed(name: str) -> bool:
    """Whether a library can be imported here."""
    # A folder without `__init__.py` also has a spec; it has no origin.
    spec = find_spec(LIBRARIES[name].module)
    return spec is not None and spec.origin is not None


def describe(name: str) -> str:
    """Name and version."""
    try:
        return f"{name} {version(LIBRARIES[name].distribution or name)}"
    except PackageNotFoundError:
        return f"{name} (not packaged)"
