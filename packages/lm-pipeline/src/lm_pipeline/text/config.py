"""How text is read, the same for every program that reads it."""

from pathlib import Path

from pydantic import Field

from lm_core.config import Text
from lm_pipeline.program import ProgramConfig
from lm_pipeline.text.documents import Cut, Errors, OnBad, Rules
from lm_pipeline.text.inputs import Choice, Chosen


class InputConfig(ProgramConfig):
    """From files to documents."""

    format: Chosen = "auto"
    """What the inputs are; auto: by name and first bytes (.jsonl, .json, .csv, .tsv, .parquet, .arrow; else text)."""
    include: tuple[str, ...] = ()
    """Patterns for files in folders, such as "*.md" or "docs/**/*.rst"; one that fits none is left out."""
    exclude: tuple[str, ...] = ()
    """Patterns for files in folders, and for folders, that are left out."""
    separator: Text = ""
    """Where a text file is cut into documents, such as "<|endoftext|>"; without it, a file is a document."""
    text_field: str = "text"
    """Field or column that holds the document; "data.text" for a field in a field. A list is its texts, on lines."""
    message_format: str = "{role}: {content}\n"
    """How a message is written where the field is a conversation: a list of messages with role and content."""
    errors: Errors = "strict"
    """What is not UTF-8 (or a lone surrogate in JSON): stop, or replace it by U+FFFD."""
    on_bad: OnBad = "stop"
    """A record that is null, malformed or too long: stop, or skip it; what was skipped is counted and reported."""
    max_record_bytes: int = Field(1 << 28, gt=0)
    """A record (line, item, row) of more bytes is bad; documents of text files may have any length."""

    def choice(self, but_not_in: str) -> Choice:
        """Which files are read, outside of a folder that is written to."""
        return Choice(self.format, self.include, self.exclude, Path(but_not_in))

    def rules(self, cut: Cut | None) -> Rules:
        """How they become documents."""
        return Rules(
            separator=self.separator.encode(),
            field=self.text_field,
            message_format=self.message_format,
            errors=self.errors,
            on_bad=self.on_bad,
            max_record_bytes=self.max_record_bytes,
            cut=cut,
        )
