"""Laws of standard streams: nobody reading is no reason to stop."""

import json
import subprocess
import sys

import pytest

from tests.support.places import ROOT

PLAN = f"{sys.executable} -m batch_nst plan jobs/recipes/demo.yaml output=/nowhere"

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
    ended = shell(f"{PLAN} {more}")
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
