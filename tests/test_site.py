"""The site of docs/ (mkdocs.yml, tools/docs.py): it builds without a warning, asks no other host, has every command."""

import logging
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("material")

from mkdocs.commands.build import build
from mkdocs.config import load_config

REPOSITORY = Path(__file__).resolve().parents[1]


class Requests(HTMLParser):
    """What a browser fetches by itself to show a page."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "a":
            self.found += [
                value for name, value in attrs if name in ("src", "href", "srcset", "data", "poster") and value
            ]


def abroad(page: str) -> list[str]:
    return [url for url in Requests(page).found if re.match(r"(https?:)?//", url)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    logging.getLogger("mkdocs").setLevel(logging.WARNING)
    config = load_config(str(REPOSITORY / "mkdocs.yml"), site_dir=str(tmp_path_factory.mktemp("site")), strict=True)
    build(config)
    return Path(config.site_dir), config.hooks["tools/docs.py"]


def test_no_page_and_no_style_asks_another_host(site: tuple[Path, Any]) -> None:
    pages = {path: path.read_text(encoding="utf-8") for path in site[0].rglob("*.html")}
    assert len(pages) > 40
    assert {str(path): abroad(page) for path, page in pages.items() if abroad(page)} == {}
    for path in site[0].rglob("*.css"):
        assert not re.search(r"@import|url\(\s*[\"']?(https?:)?//", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    "page",
    ['<script src="https://cdn/x.js"></script>', '<link href="//fonts/css">', '<img alt="" src="http://a/b.png">'],
)
def test_the_guard_notices_another_host(page: str) -> None:
    assert abroad(page)
    assert not abroad('<a href="https://arxiv.org">a paper</a><img src="b.png">')


def test_every_command_line_has_a_page_with_its_help(site: tuple[Path, Any]) -> None:
    folder, hook = site
    programs = hook.programs()
    assert {"lm-bench", "transformerlm-train", "apps/gpt", "apps/mini_gpt/train_bpe.py"} <= set(programs)
    for program in programs:
        page = unescape((folder / hook.page_uri(program)).with_suffix(".html").read_text(encoding="utf-8"))
        assert page.count("usage: ") == 1 + len(hook.subcommands(program)), program
        assert "--help" in page


def test_every_document_is_in_the_navigation(site: tuple[Path, Any]) -> None:
    page = (site[0] / "index.html").read_text(encoding="utf-8")
    for path in (REPOSITORY / "docs").glob("*.md"):
        assert f'href="docs/{path.stem}.html"' in page
