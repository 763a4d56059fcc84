"""Hooks of mkdocs.yml: the repository's Markdown files, the sources they link to, and a page for each command line.

Flow: README.md, docs/, the READMEs of packages and apps  --the same paths-->  pages
      files they link to (sources, configs, notebooks)  -->  pages of code, or files
      --help of every command, run now  -->  commands/NAME.md

The site has the layout of the repository, so a link that works there works here. Help is what the programs print, so no
page of it can go stale.
"""

import contextlib
import importlib
import io
import os
import re
import runpy
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("*.md", "docs/**/*.md", "packages/*/README.md", "apps/*/README.md")
CODE = {".py": "python", ".toml": "toml", ".yaml": "yaml"}
_LINK = re.compile(r"(\]\()([^)#:]+)(?=[)#])")


def programs() -> dict[str, Callable[[], object]]:
    """Return what a user types after `uv run` -> the function that runs it with the words of sys.argv."""
    found: dict[str, Callable[[], object]] = {}
    for path in sorted(ROOT.glob("packages/*/pyproject.toml")):
        for name, target in tomllib.loads(path.read_text(encoding="utf-8"))["project"].get("scripts", {}).items():
            found[name] = partial(_run_script, target)
    for app in sorted(ROOT.glob("apps/*/")):
        for path in [app] if (app / "__main__.py").exists() else sorted(app.glob("*.py")):
            found[path.relative_to(ROOT).as_posix()] = partial(runpy.run_path, str(path), run_name="__main__")
    return found


def _run_script(target: str) -> object:
    """Run a script of a pyproject.toml: `module:function`."""
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(module), function)()


def subcommands(program: str) -> list[str]:
    """Return the first words that a program hands over to a command of its own."""
    module = f"{Path(program).name.replace('-', '_')}.cli"
    try:
        return list(getattr(importlib.import_module(module), "COMMANDS", ()))
    except ModuleNotFoundError:
        return []


def help_of(run: Callable[[], object], *words: str) -> str:
    """Return what a program prints for `words` and --help, as wide as a page."""
    shown = io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["program", *words, "--help"]),
        mock.patch.dict(os.environ, {"COLUMNS": "88"}),
        contextlib.redirect_stdout(shown),
        contextlib.suppress(SystemExit),
    ):
        run()
    return shown.getvalue().strip()


def command_page(program: str, run: Callable[[], object]) -> str:
    """Return the page of a program: its help, and that of each of its commands."""
    parts = [f"# `uv run {program}`", f"```text\n{help_of(run)}\n```"]
    parts += [f"## `{name}`\n\n```text\n{help_of(run, name)}\n```" for name in subcommands(program)]
    return "\n\n".join(parts) + "\n"


def page_uri(program: str) -> str:
    """Return the path of a program's page within the site."""
    return f"commands/{Path(program).stem}.md"


def pages() -> dict[str, Path]:
    """Return path within the repository and the site -> Markdown file."""
    return {path.relative_to(ROOT).as_posix(): path for pattern in PAGES for path in sorted(ROOT.glob(pattern))}


def linked() -> Iterator[Path]:
    """The files that the pages link to, other than pages."""
    for path in pages().values():
        for _, target in _LINK.findall(path.read_text(encoding="utf-8")):
            found = (path.parent / target).resolve()
            if found.is_file() and found.is_relative_to(ROOT) and found.suffix != ".md":
                yield found


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the commands, and the pages of docs/ that nav does not name, to nav."""
    nav: list[dict[str, Any]] = config.nav or []
    sections = {name: held for entry in nav for name, held in entry.items()}
    sections["Commands"] += [{name: page_uri(name)} for name in programs()]
    named = str(nav)
    sections["Guides"] += [uri for uri in pages() if uri.startswith("docs/") and f"'{uri}'" not in named]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Lay the pages and what they link to where they lie in the repository."""
    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
    for uri, path in pages().items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    for path in dict.fromkeys(linked()):
        uri = path.relative_to(ROOT).as_posix()
        if path.suffix in CODE:
            head = f"---\nsearch: {{exclude: true}}\n---\n\n# {path.name}\n\n`{uri}`\n\n"
            text = f"{head}``````{CODE[path.suffix]}\n{path.read_text(encoding='utf-8')}\n``````\n"
            files.append(File.generated(config, f"{uri}.md", content=text))
        else:
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    for program, run in programs().items():
        files.append(File.generated(config, page_uri(program), content=command_page(program, run)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Lead links to sources to their pages, and let Markdown be read within <details>."""
    code = _LINK.sub(lambda m: m[0] + ".md" if Path(m[2]).suffix in CODE else m[0], markdown)
    return code.replace("<details>", "<details markdown>")
