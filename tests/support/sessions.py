"""A command in a session of its own, with a Ray of its own, for tests to kill to the last process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

CTRL_C_COUNTS = """
import signal
from batch_nst.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever these tests were started by
main()
"""
"""The command as a program for `-c`, which Ctrl-C ends even where its parent ignores it."""


def start(
    home: Path,
    command: str,
    *overrides: str,
    address: str = "local",
    program: Sequence[str] = ("-m", "batch_nst"),
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *program, command, str(home / "recipe.yaml"), *overrides],
        cwd=home,
        env={**os.environ, "RAY_ADDRESS": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    try:
        out, err = process.communicate()
    except BaseException:  # this test's time is up
        kill(process)
        raise
    assert process.returncode == 0, err
    return dict(json.loads(out.splitlines()[-1]))


def kill(process: subprocess.Popen[str]) -> None:
    """The command and the Ray that it started, to the last process: one that is left trains on."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family)
    process.communicate()


def strike(process: subprocess.Popen[str], ripe: Callable[[], object]) -> None:
    """Kill a command, to the last process of its Ray, as soon as it is ripe; it has not ended by itself."""
    while not ripe():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    kill(process)
    assert process.returncode == -signal.SIGKILL


def resumed_from(home: Path) -> Path | None:
    """The checkpoint that the next start would begin with; Ray Train notes it some time after its files."""
    for path in home.glob("out/checkpoints/*/checkpoint_manager_snapshot.json"):
        with contextlib.suppress(json.JSONDecodeError):  # half written
            latest = json.loads(path.read_text())["latest_checkpoint_result"]
            return path.parent / latest["checkpoint_dir_name"]
    return None
