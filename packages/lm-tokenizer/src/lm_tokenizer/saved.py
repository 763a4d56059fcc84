"""What a folder holds: this tokenizer, another one, or none."""

from pathlib import Path


class Saved:
    """Part of every tokenizer: it recognizes itself in a folder."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides the ids."""
        raise NotImplementedError

    def is_saved_in(self, folder: Path) -> bool | None:
        """Whether the tokenizer in a folder, of whatever kind, is this one; None where it holds none.

        Raises:
            TokenizerError: when there are files of one, and they cannot be read, now or ever.
        """
        from lm_tokenizer.adapters import load_tokenizer, tokenizer_file_in  # here: these load every kind

        if tokenizer_file_in(folder) is None:
            return None
        return load_tokenizer(folder).fingerprint == self.fingerprint
