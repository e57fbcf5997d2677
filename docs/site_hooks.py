"""Hooks of mkdocs: pages and files outside `docs/` that the pages link to become part of the site.

`make docs` runs it. README is the first page; a link that leads out of `docs/` is turned to where its
file lies in the site, so that no page exists twice.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages beside `docs/`, and their names in the site."""

_LINK = re.compile(r"(\]\()([^)\s#]+)([)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages beside `docs/`, and every file out of it that a page links to."""
    for name, place in PAGES.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / name)))
    linked = {
        target
        for file in files.documentation_pages()
        for target in _targets(_source(file.src_uri))
        if _in_site(target) == f"source/{target}"
    }
    for target in sorted(linked):
        files.append(File.generated(config, f"source/{target}", abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to where their files lie in the site."""
    source, here = _source(page.file.src_uri), posixpath.dirname(page.file.src_uri)

    def turned(link: re.Match[str]) -> str:
        target = _target(source, link[2])
        place = link[2] if target is None else posixpath.relpath(_in_site(target), here or ".")
        return f"{link[1]}{place}{link[3]}"

    return _LINK.sub(turned, markdown)


def _source(place: str) -> str:
    """The file of a page below the checkout."""
    return next((name for name, page in PAGES.items() if page == place), f"docs/{place}")


def _targets(source: str) -> set[str]:
    """Files below the checkout that a page links to."""
    text = (ROOT / source).read_text()
    found = (_target(source, link[2]) for link in _LINK.finditer(text))
    return {target for target in found if target}


def _target(source: str, link: str) -> str | None:
    """The file below the checkout that a relative link means; None where it is another kind of link."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    there = "://" not in link and not target.startswith("..") and (ROOT / target).is_file()
    return target if there else None


def _in_site(target: str) -> str:
    """Where a file below the checkout lies in the site."""
    if target in PAGES:
        return PAGES[target]
    return target.removeprefix("docs/") if target.startswith("docs/") else f"source/{target}"
