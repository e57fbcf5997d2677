"""Laws of standard streams: nobody reading is no reason to stop, and what others write goes to a log file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from batch_nst import cli, console
from tests.support.calls import Call
from tests.support.places import ROOT

PLAN = """
from batch_nst import cli
from batch_nst.console import log
cli._plan = lambda options: log("photos") or {"found": 1}
cli.main(["plan", "recipe.yaml"])
"""

PROGRESS = """
import sys
from batch_nst import console, streams
streams.keep_streams()
console._LOG_SECONDS = 0.0
with console.progress_bar("generate", 5_000, "images") as progress:
    for _ in range(5_000):
        progress.advance()
        console.log("a further line")
streams.tell("done", sys.stdout)
"""


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """A line of bash; it ends with the code of its first command."""
    words = ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("2>/dev/full", ""),
        ("2>&-", ""),
        ("| true", "photos"),
        ("2>&1 | true", ""),
        (">&-", "photos"),
        (">/dev/full", "warning: the figures could not be written to standard output: No space left"),
    ],
)
def test_a_stream_that_takes_nothing_changes_no_exit_code(more: str, told: str) -> None:
    ended = shell(f"{sys.executable} -c '{PLAN}' {more}")
    assert ended.returncode == 0
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    if more.startswith("2>") and "|" not in more:
        assert json.loads(ended.stdout)["exit_code"] == 0


@pytest.mark.parametrize("more", ["2>/dev/full", "2> >(head -1)", "2>&-"])
def test_progress_goes_on_when_nobody_reads_it(more: str) -> None:
    ended = shell(f"{sys.executable} -c '{PROGRESS}' {more}")
    assert (ended.returncode, ended.stderr.count("\n") <= 1) == (0, True)
    assert ended.stdout.splitlines()[-1] == "done" or more == "2> >(head -1)"


NOISY = """
import os, signal, subprocess, sys
from batch_nst import cli, streams
from batch_nst.console import log, progress_bar, warn
from batch_nst.errors import ClusterError

def run(options):
    streams.set_aside()
    streams.set_aside()
    os.write(2, b"a line of C++\\n")
    subprocess.run(["sh", "-c", "echo a line of another process >&2"], check=True)
    print("a printed line")
    log("news")
    warn("warning: of ours")
    with progress_bar("plan", 1, "images") as progress:
        progress.advance()
    match options.recipe:
        case "fails": raise ClusterError("it failed")
        case "bug": raise KeyError("lost")
        case "stopped": signal.raise_signal(signal.SIGTERM)
    return {"found": 1}

cli._plan = run
cli.main()
"""

RAY = "a line of C++\na line of another process\na printed line\n"


def noisy(folder: Path, words: str, more: str = "") -> subprocess.CompletedProcess[str]:
    """A command in whose process others write, too; its log file goes to this folder."""
    (folder / "noisy.py").write_text(NOISY)
    (folder / "tmp").mkdir()
    return shell(f"TMPDIR={folder}/tmp {sys.executable} {folder}/noisy.py plan {words} {more}")


def logs(folder: Path) -> list[Path]:
    return list((folder / "tmp").iterdir())


@pytest.mark.parametrize(("words", "code"), [("fine", 0), ("stopped", 143)])
def test_what_ray_writes_is_gone_after_a_success_or_a_stop(tmp_path: Path, words: str, code: int) -> None:
    ended = noisy(tmp_path, words)
    assert (ended.returncode, json.loads(ended.stdout)["exit_code"]) == (code, code)
    first, second, progress, *last = ended.stderr.splitlines()
    assert (first, second, progress[:11]) == ("news", "warning: of ours", "plan: 1 of ")
    assert last == (["batch-nst plan: stopped by SIGTERM"] if code else [])
    assert logs(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("fails", 1, "batch-nst plan: it failed\n"),
        ("bug", 1, "KeyError: 'lost'\n"),
        ("fails -qq", 1, "batch-nst plan: it failed\n"),
    ],
)
def test_what_ray_writes_is_in_a_file_that_a_failure_names(
    tmp_path: Path, words: str, code: int, told: str
) -> None:
    ended = noisy(tmp_path, words)
    assert (ended.returncode, json.loads(ended.stdout)["exit_code"]) == (code, code)
    (log,) = logs(tmp_path)
    assert (log.read_text(), log.stat().st_mode & 0o777) == (RAY, 0o600)
    assert f"what Ray wrote is in {log} on {os.uname().nodename}; -v shows it as it comes\n" in ended.stderr
    assert ended.stderr.endswith(told)
    assert not set(RAY.splitlines()) & set(ended.stderr.splitlines())
    assert [word in ended.stderr for word in ("news", "warning: of ours")] == [words[6:] == ""] * 2


def test_verbose_shows_what_ray_writes_as_it_comes(tmp_path: Path) -> None:
    ended = noisy(tmp_path, "fails -v")
    assert ended.stderr.startswith(f"{RAY}news\nwarning: of ours\n")
    assert ended.stderr.splitlines()[-1] == "batch-nst plan: it failed"
    assert ended.stderr.count("\n") == 7
    assert logs(tmp_path) == []


@pytest.mark.parametrize("more", ["2>/dev/full", "2> >(head -1)"])
def test_what_ray_writes_is_kept_though_nobody_reads(tmp_path: Path, more: str) -> None:
    ended = noisy(tmp_path, "fails", more)
    assert ended.returncode == 1
    (log,) = logs(tmp_path)
    assert log.read_text() == RAY
    assert "Exception ignored" not in ended.stderr


def test_where_no_file_can_be_made_nothing_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(
        NOISY.replace("def run", "import tempfile\ntempfile.tempdir = '/proc'\ndef run")
    )
    ended = shell(f"{sys.executable} {tmp_path}/noisy.py plan fine")
    assert (ended.returncode, ended.stderr.splitlines()[:3]) == (0, RAY.splitlines())


@pytest.mark.parametrize(
    ("words", "told"),
    {"": ["news", "warning"], "-q": ["warning"], "-qqq": [], "--verbose": ["news", "warning"]}.items(),
)
def test_quiet_leaves_warnings_and_twice_quiet_errors(
    call: Call, monkeypatch: pytest.MonkeyPatch, words: str, told: list[str]
) -> None:
    def speak(_: object) -> dict[str, int]:
        console.log("news")
        console.warn("warning")
        with console.progress_bar("plan", 2, "images") as progress:
            progress.advance()
        return {"found": 1}

    monkeypatch.setattr(cli, "_plan", speak)
    monkeypatch.setattr(console, "_shown", console.Shown.NEWS)
    ended = call("plan", "recipe.yaml", *words.split())
    assert (ended.code, ended.figures["found"], ended.stderr.splitlines()) == (0, 1, told)
