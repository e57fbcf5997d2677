"""Checks the English of docstrings, comments, messages and pages: long sentences, and words to avoid.

    python docs/check_wording.py            # the package, its scripts and the pages, but for CHANGELOG.md
    python docs/check_wording.py FILE ...   # Python or Markdown

Code, tables, headings and the targets of links of a page are left out.
Prints one line for each fault and ends with 1 if there is any. The words are in `docs/words_to_avoid.txt`.
"""

from __future__ import annotations

import ast
import fnmatch
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
WORDS = ROOT / "docs" / "words_to_avoid.txt"
EVERY = (
    "batch_nst/**/*.py",
    "jobs/*.py",
    "docs/*.py",
    "docs/*.md",
    "README.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
)
MOST_WORDS = 35
MESSAGE_WORDS = 4
"""A string with fewer words is a name or a key."""

_SECTION = re.compile(r"^\s*(Args|Returns|Yields|Raises|Attributes):\s*$")
_ENTRY = re.compile(r"^\s*(\*{0,2}\w+: |- |\d+\. )")
_END = re.compile(r"[.!?:](?=[)\"'`]*\s)")
_CODE = re.compile(r"`[^`]*`")
_NO_PROSE = re.compile(r"\s*$| {4}|\s*\||#+ ")
"""A line of a page that is empty, indented code, a row of a table, or a heading."""

_ITEM = re.compile(r"^\s*(- |\d+\. )")
_MARKUP = re.compile(r"\]\([^)]*\)|\[|\*\*")


class Text(NamedTuple):
    """Words for people in a file."""

    line: int
    text: str


class Avoided(NamedTuple):
    """An entry of the list of words."""

    pattern: re.Pattern[str]
    instead: str
    allowed: tuple[str, ...]


def read_words(path: Path = WORDS) -> list[Avoided]:
    """The entries of a list of words."""
    found = []
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            pattern, instead, *files = re.split(r" \| ", line)
            allowed = tuple(files[0].split(", ")) if files else ()
            found.append(Avoided(re.compile(pattern, re.IGNORECASE), instead.strip(), allowed))
    return found


def texts(source: str) -> Iterator[Text]:
    """Docstrings, comments (neighbours together) and messages of a Python file."""
    tree = ast.parse(source)
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            if id(node) in docstrings or len(node.value.split()) >= MESSAGE_WORDS:
                yield Text(node.lineno, node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = (str(part.value) if isinstance(part, ast.Constant) else "`x`" for part in node.values)
            text = "".join(parts)
            if len(text.split()) >= MESSAGE_WORDS:
                yield Text(node.lineno, text)
    last, first, words = -1, 0, ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith(("#!", "# noqa", "# type:")):
            text = token.string.lstrip("# ").partition("  noqa")[0]
            if token.start[0] != last + 1:
                if words:
                    yield Text(first, words)
                first, words = token.start[0], ""
            words, last = f"{words} {text}", token.start[0]
    if words:
        yield Text(first, words)


def prose(page: str) -> Iterator[Text]:
    """Paragraphs of a Markdown page and entries of its lists, without what is no prose."""
    first, words, fenced = 0, "", False
    for number, line in enumerate([*page.splitlines(), ""], start=1):
        fence = line.lstrip().startswith("```")
        fenced ^= fence
        left_out = fence or fenced or _NO_PROSE.match(line)
        if words and (left_out or _ITEM.match(line)):
            yield Text(first, _MARKUP.sub("", words))
            words = ""
        if not left_out:
            first, words = (first, f"{words} {line.strip()}") if words else (number, _ITEM.sub("", line))


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text; each entry of a list and of a section such as `Args` begins a new one."""
    for paragraph in re.split(r"\n\s*\n", text):
        blocks: list[str] = [""]
        for line in paragraph.splitlines():
            if _SECTION.match(line) or line.lstrip().startswith(("$", ">>>", "|")):
                blocks.append("")
            elif _ENTRY.match(line):
                blocks.append(line)
            else:
                blocks[-1] += f" {line}"
        for block in blocks:
            start = 0
            plain = _CODE.sub(lambda code: "`" + "x" * (len(code[0]) - 2) + "`", block)
            for end in _END.finditer(plain):
                yield block[start : end.end()].strip()
                start = end.end()
            yield block[start:].strip()


def faults(path: Path, words: list[Avoided]) -> Iterator[str]:
    """What is to be mended in a Python file or a Markdown page, a line each."""
    name = path.absolute().relative_to(ROOT).as_posix() if path.absolute().is_relative_to(ROOT) else str(path)
    mine = [entry for entry in words if not any(fnmatch.fnmatch(name, f"*{glob}") for glob in entry.allowed)]
    page = path.suffix == ".md"
    for text in prose(path.read_text()) if page else sorted(texts(path.read_text())):
        where = f"{name}:{text.line}"
        for sentence in sentences(text.text):
            count = len(_CODE.sub("x", sentence).split())
            if count > MOST_WORDS:
                yield f"{where}: {count} words in a sentence: {sentence[:60]}..."
        plain = _CODE.sub("`x`", " ".join(text.text.split()))
        for entry in mine:
            if match := entry.pattern.search(plain):
                around = plain[max(0, match.start() - 20) : match.end() + 20]
                yield f"{where}: `{match[0]}` in `{around}`: {entry.instead}"
        if not page and re.match(r"(Of|By|With) [a-z]", plain):
            yield f"{where}: begins with `{plain[:30]}`: name the thing first"


def main(arguments: list[str]) -> int:
    """Check files, or all of the package, jobs, docs and pages; the exit code."""
    every = [found for glob in EVERY for found in ROOT.glob(glob)]
    words = read_words()
    found = [
        fault
        for path in (map(Path, arguments) if arguments else sorted(every))
        for fault in faults(path, words)
    ]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
