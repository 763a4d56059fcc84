"""Finished units that stay as shards: their totals, and the record that says that the stream is complete.

units of make-data --all are there--> stream.json    (`lm_core.data.shards` reads them meanwhile)
"""

from collections import Counter

from lm_core.data.shards import COMPLETE, StreamRecord, read_stream_record
from lm_core.disk.files import write_whole
from lm_core.errors import UnreadableError, UserError
from lm_core.file_names import toml_bytes
from lm_pipeline.tokens.job import Job, NoDocumentsError, no_documents
from lm_pipeline.tokens.units import CONFIG_NAME, Parts


def complete_record(parts: Parts) -> StreamRecord | None:
    """The record of a stream of which every unit is there; else None, and a record of another state is removed."""
    try:
        record = read_stream_record(parts.folder)
    except UnreadableError:
        raise
    except UserError:
        record = None
    if record and (record.source, record.units) == (parts.job, len(parts.units)):
        return record
    (parts.folder / COMPLETE).unlink(missing_ok=True)
    return None


def complete(job: Job, parts: Parts, config: str) -> StreamRecord:
    """Record that the units which are there are all, and the config beside them.

    Raises:
        NoDocumentsError: when a split has none.
        UserError: when a shard is damaged.
    """
    tokens, documents, size = Counter[str](), Counter[str](), Counter[str]()
    for split in job.splits:
        for file in parts.token_files(split):
            tokens[split] += file.metadata.tokens
            documents[split] += file.metadata.documents
            size[split] += file.metadata.bytes
    if not all(tokens[split] for split in job.splits):
        raise NoDocumentsError(no_documents(job, parts.progress.documents, [*parts.flaws(job.files).lines()]))
    record = StreamRecord(source=parts.job, units=len(parts.units), tokens=tokens, documents=documents, bytes=size)
    write_whole(parts.folder / CONFIG_NAME, toml_bytes(config))
    write_whole(parts.folder / COMPLETE, record.model_dump_json().encode())
    return record
