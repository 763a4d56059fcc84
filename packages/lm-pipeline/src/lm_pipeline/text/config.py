"""Config of reading text, the same for every program that reads it."""

from pathlib import Path

from pydantic import Field

from lm_core.config import Text
from lm_pipeline.program import ProgramConfig
from lm_pipeline.text.documents import Cut, Errors, OnBad, Rules
from lm_pipeline.text.inputs import Choice, Chosen


class InputConfig(ProgramConfig):
    """From files to documents."""

    format: Chosen = "auto"
    """Format of the inputs; auto: by name and first bytes (.jsonl, .json, .csv, .tsv, .parquet, .arrow; else text)."""
    include: tuple[str, ...] = ()
    """Patterns of files to read in folders, such as "*.md" or "docs/**/*.rst"; without any, all files."""
    exclude: tuple[str, ...] = ()
    """Patterns of files and folders to skip in folders."""
    separator: Text = ""
    """Separator of documents in a text file, such as "<|endoftext|>"; without it, a file is one document."""
    text_field: str = "text"
    """Field or column of the document; "data.text" for a nested field. A list of texts is joined by newlines."""
    message_format: str = "{role}: {content}\n"
    """Format of a message where the field is a conversation: a list of messages with role and content."""
    errors: Errors = "strict"
    """On invalid UTF-8 (or a lone surrogate in JSON): stop, or replace it by U+FFFD."""
    on_bad: OnBad = "stop"
    """On a record that is null, malformed or too long: stop, or skip it; skipped records are counted and reported."""
    max_record_bytes: int = Field(1 << 28, gt=0)
    """Maximum size of a record (line, item, row); documents of text files may have any length."""

    def choice(self, but_not_in: str = "") -> Choice:
        """Which files are read, outside of a folder that is written to, if there is one."""
        return Choice(self.format, self.include, self.exclude, Path(but_not_in) if but_not_in else None)

    def rules(self, cut: Cut | None) -> Rules:
        """Rules by which they become documents."""
        return Rules(
            separator=self.separator.encode(),
            field=self.text_field,
            message_format=self.message_format,
            errors=self.errors,
            on_bad=self.on_bad,
            max_record_bytes=self.max_record_bytes,
            cut=cut,
        )
