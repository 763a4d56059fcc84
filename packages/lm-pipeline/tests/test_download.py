"""A download is the published file or is nothing, whatever the server does: each test serves one misbehaviour."""

import errno
import hashlib
import io
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pooch
import pytest

from lm_core.errors import UserError
from lm_pipeline.text.named.download import DownloadError, Patience, RemoteFile, download

BODY = bytes(range(256)) * 800
HALF = len(BODY) // 2
Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    server: "Web"

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers.get("Range"))
        self.server.paths.append(self.path)
        answers = self.server.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def head(self, status: int, length: int | None, **headers: str) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Web(ThreadingHTTPServer):
    """A server that gives its answers in turn, the last one for ever."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = []
        self.ranges: list[str | None] = []
        self.paths: list[str] = []
        self.sent = 0
        self.closing = threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the client has hung up, as it should


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with Web() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


def content(body: bytes, length: int | None = None, **headers: str) -> Answer:
    def answer(handler: Handler) -> None:
        handler.head(200, len(body) if length is None else length, **headers)
        handler.wfile.write(body)

    return answer


whole = content(BODY)
broken_off = content(BODY[:HALF], len(BODY))


def ranged(handler: Handler) -> None:
    asked = handler.headers.get("Range")
    if asked is None:
        return whole(handler)
    start = int(asked.removeprefix("bytes=").removesuffix("-"))
    handler.head(206, len(BODY) - start, Content_Range=f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
    handler.wfile.write(BODY[start:])
    return None


def status(code: int) -> Answer:
    return lambda handler: handler.head(code, 0)


def endless(handler: Handler) -> None:
    handler.head(200, None)
    while handler.server.sent < 500_000_000:
        handler.server.sent += handler.wfile.write(BODY)


def silent(handler: Handler) -> None:
    handler.server.closing.wait(60)


def silent_after_half(handler: Handler) -> None:
    broken_off(handler)
    handler.wfile.flush()
    handler.server.closing.wait(60)


def trickling(handler: Handler) -> None:
    handler.head(200, len(BODY))
    for i in range(len(BODY)):
        handler.wfile.write(BODY[i : i + 1])
        if handler.server.closing.wait(0.01):
            break


def remote(*urls: str, digest: str | None = None) -> RemoteFile:
    return RemoteFile("text.txt", urls, digest or f"sha256:{hashlib.sha256(BODY).hexdigest()}", len(BODY))


def fetch(web: Web, folder: Path, *answers: Answer, **patience: Any) -> Path:
    web.answers = list(answers)
    patience = {"sleep": lambda seconds: None, "silence": 10.0} | patience
    return download(remote(f"{web.address}/text"), folder, lambda line: None, Patience(**patience))


def refusal(web: Web, folder: Path, *answers: Answer, **patience: Any) -> str:
    with pytest.raises(DownloadError) as caught:
        fetch(web, folder, *answers, **patience)
    assert not (folder / "text.txt").exists()
    [reason] = caught.value.reasons
    return reason


def only_the_file(folder: Path) -> None:
    assert [path.name for path in folder.iterdir()] == ["text.txt"]
    assert (folder / "text.txt").read_bytes() == BODY


def test_a_file_comes_whole_and_alone(web: Web, tmp_path: Path) -> None:
    assert fetch(web, tmp_path / "a" / "b", whole) == tmp_path / "a" / "b" / "text.txt"
    only_the_file(tmp_path / "a" / "b")
    assert web.ranges == [None]


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
def test_the_hash_may_be_of_the_kinds_that_are_published(web: Web, tmp_path: Path, algorithm: str) -> None:
    web.answers = [whole]
    digest = f"{algorithm}:{hashlib.new(algorithm, BODY).hexdigest()}"
    download(remote(f"{web.address}/text", digest=digest), tmp_path, lambda line: None)
    only_the_file(tmp_path)


def test_what_is_there_and_verified_is_not_fetched(web: Web, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(BODY)
    fetch(web, tmp_path, whole)
    assert web.paths == []


def test_what_is_there_and_damaged_is_replaced(web: Web, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(BODY[:-1] + b"?")
    fetch(web, tmp_path, whole)
    only_the_file(tmp_path)


# Going on


def test_a_broken_connection_is_gone_on_with(web: Web, tmp_path: Path) -> None:
    fetch(web, tmp_path, broken_off, ranged)
    only_the_file(tmp_path)
    assert web.ranges == [None, f"bytes={HALF}-"]


def test_an_earlier_process_s_part_is_gone_on_with(web: Web, tmp_path: Path) -> None:
    (tmp_path / "text.txt.part").write_bytes(BODY[:HALF])
    fetch(web, tmp_path, ranged)
    only_the_file(tmp_path)
    assert web.ranges == [f"bytes={HALF}-"]


def test_a_part_that_is_complete_needs_no_request(web: Web, tmp_path: Path) -> None:
    (tmp_path / "text.txt.part").write_bytes(BODY)
    fetch(web, tmp_path, whole)
    only_the_file(tmp_path)
    assert web.paths == []


def test_a_server_without_ranges_starts_again(web: Web, tmp_path: Path) -> None:
    (tmp_path / "text.txt.part").write_bytes(BODY[:HALF])
    fetch(web, tmp_path, whole, status(404))
    only_the_file(tmp_path)
    (tmp_path / "text.txt").unlink()
    (tmp_path / "text.txt.part").write_bytes(BODY[:HALF])
    assert "the hash differs" in refusal(web, tmp_path, content(BODY[:-1] + b"?"))
    assert len(web.paths) == 2  # nothing of the part was in it: another attempt would give the same


@pytest.mark.parametrize("part", [b"x" * HALF, b"x" * len(BODY), b"x" * (len(BODY) + 1)])
def test_a_part_that_is_something_else_is_found_out(web: Web, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "text.txt.part").write_bytes(part)
    fetch(web, tmp_path, ranged)
    only_the_file(tmp_path)
    assert web.ranges[-1] is None


def another_range(handler: Handler) -> None:
    handler.head(206, len(BODY) - 7, Content_Range=f"bytes 7-{len(BODY) - 1}/{len(BODY)}")
    handler.wfile.write(BODY[7:])


@pytest.mark.parametrize("answer", [another_range, status(416)])
def test_an_answer_that_does_not_fit_the_part_starts_again(web: Web, tmp_path: Path, answer: Answer) -> None:
    (tmp_path / "text.txt.part").write_bytes(BODY[:HALF])
    fetch(web, tmp_path, answer, ranged)
    only_the_file(tmp_path)
    assert web.ranges == [f"bytes={HALF}-", None]


# Failing and trying again


def test_a_server_in_trouble_is_asked_again_after_growing_pauses(web: Web, tmp_path: Path) -> None:
    web.answers = [status(500), status(503), status(429), whole]
    pauses, said = list[float](), list[str]()
    download(remote(f"{web.address}/text"), tmp_path, said.append, Patience(sleep=pauses.append))
    only_the_file(tmp_path)
    assert pauses == [1, 2, 4]
    assert said[-1] == "HTTP 429 Too Many Requests; trying again in 4 s"


def test_the_attempts_are_bounded(web: Web, tmp_path: Path) -> None:
    assert refusal(web, tmp_path, status(500), attempts=3).endswith("/text: HTTP 500 Internal Server Error")
    assert len(web.paths) == 3


def test_a_file_that_is_not_there_is_asked_for_once(web: Web, tmp_path: Path) -> None:
    assert "HTTP 404 Not Found" in refusal(web, tmp_path, status(404))
    assert len(web.paths) == 1


def test_the_sources_are_tried_in_order(web: Web, tmp_path: Path) -> None:
    web.answers, said = [status(404), whole], list[str]()
    download(remote(f"{web.address}/first", f"{web.address}/second", f"{web.address}/third"), tmp_path, said.append)
    assert web.paths == ["/first", "/second"]
    assert [line.rsplit("/", 1)[1] for line in said] == ["first", "second"]
    only_the_file(tmp_path)


def test_a_part_from_one_source_is_gone_on_with_at_the_next(web: Web, tmp_path: Path) -> None:
    web.answers = [broken_off, status(404), ranged]
    urls = f"{web.address}/first", f"{web.address}/second"
    download(remote(*urls), tmp_path, lambda line: None, Patience(sleep=lambda seconds: None))
    only_the_file(tmp_path)
    assert web.ranges[2] == f"bytes={HALF}-"


def test_when_all_fail_one_line_names_each_with_its_reason(web: Web, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/text"
        web.answers = [status(404)]
        patience = Patience(attempts=2, sleep=lambda seconds: None)
        with pytest.raises(UserError) as caught:
            download(remote(f"{web.address}/text", closed, "nonsense"), tmp_path, lambda line: None, patience)
    line = str(caught.value)
    assert "\n" not in line
    assert f"{web.address}/text: HTTP 404 Not Found; {closed}: connection refused; nonsense: no address" in line
    assert line.endswith("--data_dir")
    assert list(tmp_path.iterdir()) == []


def test_a_silent_server_is_given_up(web: Web, tmp_path: Path) -> None:
    assert refusal(web, tmp_path, silent, silence=0.15, attempts=2).endswith("no answer for 0.15 s")
    assert refusal(web, tmp_path, silent_after_half, silence=2.0, attempts=1).endswith("no answer for 2 s")
    assert (tmp_path / "text.txt.part").stat().st_size == HALF


def test_a_trickling_server_is_given_up(web: Web, tmp_path: Path) -> None:
    assert " bytes in " in refusal(web, tmp_path, trickling, slow_seconds=0.2, slow_bytes=1000, attempts=1)


# Lying


def test_a_body_shorter_than_announced_is_noticed(web: Web, tmp_path: Path) -> None:
    reason = refusal(web, tmp_path, broken_off, attempts=1)
    assert f"ended after {HALF:,} of {len(BODY):,} bytes" in reason


@pytest.mark.parametrize("length", [HALF, len(BODY) + 1, 10**15])
def test_another_size_than_published_is_refused_unread(web: Web, tmp_path: Path, length: int) -> None:
    assert f"it has {length:,} bytes" in refusal(web, tmp_path, content(BODY, length))
    assert len(web.paths) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_endless_body_is_cut_off(web: Web, tmp_path: Path) -> None:
    assert "sends more than" in refusal(web, tmp_path, endless)
    assert web.sent < 100_000_000
    assert list(tmp_path.iterdir()) == []


def test_other_content_of_the_same_size_gets_no_name(web: Web, tmp_path: Path) -> None:
    assert "the hash differs" in refusal(web, tmp_path, content(BODY[:-1] + b"?"))
    assert len(web.paths) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_compressed_body_is_refused(web: Web, tmp_path: Path) -> None:
    assert "only compressed" in refusal(web, tmp_path, content(BODY, Content_Encoding="gzip"))


def test_redirects_are_followed_but_not_in_circles(web: Web, tmp_path: Path) -> None:
    def elsewhere(handler: Handler) -> None:
        handler.head(302, 0, Location="/elsewhere")

    assert refusal(web, tmp_path, elsewhere).endswith("it redirects in circles")
    assert len(web.paths) < 40
    fetch(web, tmp_path, elsewhere, whole)
    only_the_file(tmp_path)
    assert web.paths[-1] == "/elsewhere"


def test_the_environment_s_proxy_is_used(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", web.address)
    web.answers = [whole]
    download(remote("http://far.invalid/text"), tmp_path, lambda line: None)
    assert web.paths == ["http://far.invalid/text"]


# This machine


def test_a_full_disk_is_one_line_and_leaves_nothing(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("lm_pipeline.text.named.download.flush_file", full)
    with pytest.raises(UserError, match=r"text.txt cannot be written: the disk is full") as caught:
        fetch(web, tmp_path, whole)
    assert not isinstance(caught.value, DownloadError)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(web: Web, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="cannot be written: "):
        fetch(web, tmp_path / "taken" / "folder", whole)


def test_an_interrupt_leaves_only_the_part(web: Web, tmp_path: Path) -> None:
    part = tmp_path / "text.txt.part"

    def interrupting(handler: Handler) -> None:
        broken_off(handler)
        handler.wfile.flush()
        while not (part.exists() and part.stat().st_size) and not handler.server.closing.wait(0.01):
            pass
        os.kill(os.getpid(), signal.SIGINT)
        handler.server.closing.wait(60)

    with pytest.raises(KeyboardInterrupt):
        fetch(web, tmp_path, interrupting)
    assert list(tmp_path.iterdir()) == [part]
    kept = part.read_bytes()
    assert BODY.startswith(kept)
    fetch(web, tmp_path, ranged)
    only_the_file(tmp_path)
    assert web.ranges[-1] == f"bytes={len(kept)}-"


@pytest.mark.parametrize("terminal", [False, True])
def test_only_a_terminal_sees_a_bar_and_nobody_a_log(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(pooch.get_logger(), "handlers", [logging.StreamHandler(screen)])
    fetch(web, tmp_path, whole)
    assert ("100%" in screen.getvalue()) is terminal
    assert terminal or screen.getvalue() == ""
