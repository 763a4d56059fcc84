"""A file from the web: whole and verified under its name, or one line that says why not.

each source in turn -> attempts with growing pauses -> NAME.part, resumed -> size -> hash -> NAME

pooch keeps the file under its name and checks the hash; what it lacks is here as a downloader of its kind: resuming,
a limit to the size, and an end to waiting. A `.part` file is trusted for nothing: whatever it began as, the file gets
its name only after the hash of the whole is right. One that is a link, or has another name too, is not written to but
replaced.

Limits: HTTP and HTTPS. Proxies and certificates are those of the environment (`HTTPS_PROXY`, `REQUESTS_CA_BUNDLE`), as
requests reads it. One process at a time in a folder; its caller sees to that.
"""

import contextlib
import errno
import re
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from lm_core.disk.files import flush_file, flush_folder, make_folder
from lm_core.errors import UserError
from lm_core.terminal import is_terminal

_CHUNK = 1 << 18
_PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class RemoteFile:
    """A file that several places have."""

    name: str
    urls: tuple[str, ...]
    """Its URLs, the best first."""
    known_hash: str
    """As pooch spells it: `sha256:`, `sha1:` or `md5:`, then the hexadecimal digits."""
    size: int
    """In bytes."""


@dataclass(frozen=True)
class Patience:
    """Timeouts and retries of one source. Times are in seconds."""

    attempts: int = 4
    first_delay: float = 1.0
    """The pause before the second attempt; each further one is twice as long."""
    silence: float = 30.0
    """Time without an answer after which a server counts as silent."""
    slow_seconds: float = 60.0
    slow_bytes: int = 100_000
    """A server that sends less than this in `slow_seconds` counts as silent."""
    sleep: Callable[[float], None] = time.sleep


class DownloadError(UserError):
    """No source had the file; `reasons` has one for each, with its address."""

    def __init__(self, name: str, reasons: Sequence[str]) -> None:
        super().__init__(
            f"{name} could not be downloaded: {'; '.join(reasons)}; get it by hand and name its folder with --data_dir"
        )
        self.reasons = tuple(reasons)


class _RefusedError(Exception):
    """This source will not do, however often it is asked."""


class _PassingError(Exception):
    """Another attempt may do."""


def download(file: RemoteFile, folder: Path, say: Callable[[str], None], patience: Patience | None = None) -> Path:
    """The path of `file` in `folder`, from the first source that has it; what is there and verified is not fetched.

    Raises:
        DownloadError: when no source has it.
        UserError: when it cannot be written, for example because the disk is full.
    """
    patience = patience or Patience()
    path = folder / file.name
    try:
        make_folder(folder)
        if path.is_file() and hash_matches(path, file.known_hash):
            return path
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder is in its place", str(path))
        reasons: list[str] = []
        for url in file.urls:
            say(f"downloading {file.name} ({file.size / 1e6:.1f} MB) from {url}")
            reason = _try_source(url, file, folder, say, patience)
            if reason is None:
                flush_folder(folder)
                return path
            reasons.append(f"{url}: {reason}")
    except OSError as error:
        raise write_failure(error, path) from None
    raise DownloadError(file.name, reasons)


def hash_matches(path: Path, known_hash: str) -> bool:
    """Whether a file has this hash, given as for `RemoteFile`."""
    import pooch  # type: ignore[import-untyped]

    return bool(pooch.hashes.hash_matches(str(path), known_hash))


def write_failure(error: OSError, path: Path) -> UserError:
    """Error for a file of a dataset that cannot be written."""
    if error.errno in _NO_ROOM:
        return UserError(f"{path} cannot be written: the disk is full; make room, or have the file elsewhere")
    return UserError(f"{path} cannot be written: {error.strerror or error}")


def _try_source(url: str, file: RemoteFile, folder: Path, say: Callable[[str], None], patience: Patience) -> str | None:
    """Download the file from one source. Returns why that failed, or None."""
    import pooch
    from requests import RequestException
    from urllib3.exceptions import HTTPError

    reason = ""
    for attempt in range(patience.attempts):
        if attempt:
            delay = patience.first_delay * 2 ** (attempt - 1)
            say(f"{reason}; trying again in {delay:g} s")
            patience.sleep(delay)
        downloader = _Resuming(file, folder / f"{file.name}.part", patience)
        try:
            with _quiet(pooch.get_logger()):
                pooch.retrieve(url, file.known_hash, file.name, folder, downloader=downloader)
            return None
        except _RefusedError as error:
            return str(error)
        except _PassingError as error:
            reason = str(error)
        except (RequestException, HTTPError) as error:
            reason, final = _explained(error, patience)
            if final:
                return reason
        except ValueError:  # pooch's, for a hash that differs; it has removed the file
            reason = "what it sends is not the published file: the hash differs"
            if not downloader.resumed:
                return reason
    return reason


@contextlib.contextmanager
def _quiet(logger: Any) -> Iterator[None]:
    """Without pooch's own lines: `say` has said it."""
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)


def _explained(error: Exception, patience: Patience) -> tuple[str, bool]:
    """Explain a failed connection, and tell whether it is permanent."""
    import requests
    from urllib3.exceptions import ReadTimeoutError

    if isinstance(error, requests.Timeout | ReadTimeoutError):
        return f"no answer for {patience.silence:g} s", False
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted", True
    if isinstance(error, requests.TooManyRedirects):
        return "it redirects in circles", True
    if isinstance(error, ValueError):  # requests.exceptions.InvalidURL and its kin
        return "no address that can be fetched", True
    through = "the proxy: " if isinstance(error, requests.exceptions.ProxyError) else ""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return f"{through}its host is not found; is this machine online?", False
        if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
            return f"{through}{cause.strerror.lower()}", False
        cause = cause.__cause__ or cause.__context__
    return f"{through}the connection broke", False


def _own_size(part: Path) -> int:
    """Bytes of a `.part` file; what is not one of this project, and could lead elsewhere, makes way."""
    try:
        status = part.lstat()
    except FileNotFoundError:
        return 0
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
        return status.st_size
    part.unlink()
    return 0


class _Resuming:
    """A downloader for pooch that resumes where a `.part` file ends."""

    def __init__(self, file: RemoteFile, part: Path, patience: Patience) -> None:
        self.file, self.part, self.patience = file, part, patience
        self.resumed = False

    def __call__(self, url: str, output_file: str, pooch: Any, check_only: bool = False) -> None:
        have = _own_size(self.part)
        self.resumed = have > 0
        try:
            if have < self.file.size:  # else the hash will tell
                self._fetch(url, have)
            self.part.replace(output_file)
        except OSError as error:
            if error.errno in _NO_ROOM:
                self.part.unlink(missing_ok=True)  # a full disk wants the room back
            raise

    def _fetch(self, url: str, have: int) -> None:
        import requests
        from tqdm import tqdm

        # Without "identity", a server may send the file compressed, and a range would be one of the compressed bytes.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=self.patience.silence) as response:
            response.raw.enforce_content_length = False  # the end is judged here, by the size of the file
            start = self._start(response, have)
            self.resumed = start > 0
            terminal = is_terminal(sys.stderr)
            with (
                self.part.open("ab" if start else "wb") as file,
                tqdm(
                    desc=self.file.name, total=self.file.size, initial=start, unit="B", unit_scale=True,
                    disable=not terminal,
                ) as bar,
            ):  # fmt: skip
                for chunk in self._chunks(response, start):
                    file.write(chunk)
                    bar.update(len(chunk))
                file.flush()
                flush_file(file.fileno())

    def _start(self, response: Any, have: int) -> int:
        """At which byte of the file the body begins; what announces that it is another file is refused."""
        status = response.status_code
        if status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _PassingError(f"HTTP {status} {response.reason}")
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            self.part.unlink()
            raise _PassingError("it has less of the file than there is here")
        if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise _RefusedError(f"HTTP {status} {response.reason}")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise _RefusedError("it sends the file only compressed")
        start = 0
        if status == HTTPStatus.PARTIAL_CONTENT:
            sent = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if sent is None or int(sent[1]) != have:
                self.part.unlink(missing_ok=True)
                raise _PassingError("it sends another part of the file than was asked for")
            start = have
        declared = response.headers.get("Content-Length", "")
        if declared.isdecimal() and start + int(declared) != self.file.size:
            raise _RefusedError(f"it has {start + int(declared):,} bytes, and the published file {self.file.size:,}")
        return start

    def _chunks(self, response: Any, start: int) -> Iterator[bytes]:
        """The body, as it comes in; one that is slow, too long or too short ends in an error."""
        have, since, got = start, time.monotonic(), 0
        # read1 returns what is there; read would wait until a chunk is full, however slowly that happens.
        while chunk := response.raw.read1(_CHUNK, decode_content=False):
            have, got = have + len(chunk), got + len(chunk)
            if have > self.file.size:
                self.part.unlink()
                raise _RefusedError(f"it sends more than the {self.file.size:,} bytes of the published file")
            yield chunk
            if (elapsed := time.monotonic() - since) > self.patience.slow_seconds:
                if got < self.patience.slow_bytes:
                    raise _PassingError(f"only {got:,} bytes in {elapsed:.3g} s")
                since, got = time.monotonic(), 0
        if have < self.file.size:
            raise _PassingError(f"the connection ended after {have:,} of {self.file.size:,} bytes")
