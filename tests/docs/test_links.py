"""Of every Markdown file: links lead somewhere; commands, scripts and targets of make are there."""

import ast
import contextlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from batch_nst.cli import parse
from batch_nst.errors import RecipeError
from tests.support.places import ROOT

PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if path.parent.parent.name != "zoo"  # cards of models, which name the program that they show
    and not any(
        part.startswith((".", "made_by_")) or part in ("out", "build", "dist", "node_modules")
        for part in path.relative_to(ROOT).parts
    )
)
MAKEFILE = ROOT / "Makefile"
TARGETS = set(re.findall(r"^([\w-]+):", MAKEFILE.read_text(), re.M))
COMMAND = re.compile(r"(?:^|(?<=[ /]))batch-nst (?!COMMAND)(?=[a-z])")
SCRIPT = re.compile(r"\bpython[\d.]* (?:-m pytest )?(\S+\.py)\b([^|>&;]*)")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def prose(text: str) -> str:
    """A page without its blocks of code, where brackets are no links and `#` no headings."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*?) *$", prose(page.read_text()), re.M):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower()).replace(" ", "-")
        number = next(n for n in range(100) if (f"{slug}-{n}" if n else slug) not in found)
        found.add(f"{slug}-{number}" if number else slug)
    return found


def dead_links(page: Path) -> list[str]:
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    return dead


def code(page: Path) -> list[str]:
    """Each line that a page shows in a block of code or between backticks, as one line; all of a Makefile."""
    text = page.read_text()
    blocks = [text] if page == MAKEFILE else re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return lines + [" ".join(words.split()) for words in re.findall(r"`([^`]+)`", prose(text))]


def commands(page: Path) -> list[str]:
    """What follows `batch-nst` in each command line of a page."""
    return [line[found.end() :].partition(">>")[0] for line in code(page) if (found := COMMAND.search(line))]


def scripts(page: Path) -> list[tuple[str, list[str]]]:
    """Each file that a page has Python run, and what it is given."""
    found = [found for line in code(page) for found in SCRIPT.finditer(line)]
    return [(script[1], shlex.split(script[2], comments=True)) for script in found]


def is_understood(words: list[str]) -> bool:
    """A call as it stands; where a sentence names a command and its options alone, with names added."""
    words = ["https://example.com" if word == "URL" else word for word in words]
    left_out = 0 if any(not word.startswith("-") for word in words[1:]) else 3
    for number in range(left_out + 1):
        with contextlib.suppress(RecipeError):
            return bool(parse([*words, *["NAME"] * number]).command == words[0])
    return False


def is_there(script: str, words: list[str]) -> bool:
    """A file, which names the options that it is given or hands them to a command that knows them."""
    if not (ROOT / script).is_file():
        return False
    text = (ROOT / script).read_text()
    if command := re.search(r'main\(\["(\w+)", \*sys\.argv', text):
        return is_understood([command[1], *words])
    constants = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
    return {word.partition("=")[0] for word in words if word.startswith("--")} <= constants


@pages
def test_links_lead_to_files_and_headings(page: Path) -> None:
    assert dead_links(page) == []


@pages
def test_commands_are_understood(page: Path) -> None:
    found = commands(page)
    assert [command for command in found if not is_understood(shlex.split(command, comments=True))] == []


@pytest.mark.parametrize("page", [*PAGES, MAKEFILE], ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_are_there_and_know_their_options(page: Path) -> None:
    assert [script for script in scripts(page) if not is_there(*script)] == []


@pages
def test_targets_of_make_are_in_the_makefile(page: Path) -> None:
    found = re.findall(r"(?:^|`)make ([\w-]+)", page.read_text(), re.M)
    assert {name for name in found if name not in TARGETS} == set()


def test_what_the_front_door_shows_is_found() -> None:
    """The checks above see what they are for."""
    readme, repair = ROOT / "README.md", ROOT / "docs" / "repair.md"
    assert (
        "nightly auvers.yaml                              # every night: what is new, and a better model"
        in (commands(readme))
    )
    assert "rollback OUTPUT" in commands(repair)
    assert ("tests/benchmarks/overhead.py", []) in scripts(MAKEFILE)
    assert ("docs/apply_speed.py", ["--files", "200", "--rounds", "2"]) in scripts(
        ROOT / "docs" / "painting.md"
    )
    assert {"getting-started", "1-see-it-work"} <= anchors(ROOT / "docs" / "getting_started.md")
    for target in ("demo", "test"):
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_a_wrong_command_is_found() -> None:
    assert is_understood(["generate", "--retry"])
    assert is_understood(["benchmark", "--quick"])
    assert not is_understood(["generate", "--retyr"])
    assert not is_understood(["apply", "out/demo", "photo.jpg"])
    assert not is_understood(["paint"])


def test_a_wrong_script_is_found() -> None:
    assert is_there("jobs/generate.py", ["recipe.yaml", "--retry"])
    assert not is_there("jobs/generate.py", ["recipe.yaml", "--retyr"])
    assert is_there("docs/apply_speed.py", ["--rounds=1"])
    assert not is_there("docs/apply_speed.py", ["--round", "1"])
    assert not is_there("docs/paint.py", [])


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n[a](page.md#a-page) [b](#b) [c](other.md) [d](https://example.com)\n")
    assert dead_links(page) == ["#b", "other.md"]
