"""Start or join a Ray: what it needs is looked at first, and its time is limited."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path

import ray

from batch_nst.errors import ClusterError

_JOIN_SECONDS, _START_SECONDS = 60.0, 300.0
"""Time to join a Ray that answers, and to start one: more than a busy machine takes."""

_SOCKET_BYTES = 107
"""Maximum length of a Unix socket's path on Linux; elsewhere it is 103."""

_SESSION = "/ray/session_2027-01-31_06-00-00_000000_4194304/sockets/plasma_store"
"""What Ray adds to its temporary folder."""

_MOST_BYTES = _SOCKET_BYTES - len(_SESSION)
"""Maximum length of the path of Ray's temporary folder."""

_ROOM = 1 << 20
"""Bytes that the temporary folder must have room for. Ray writes its logs there."""


def check_folders(environment: dict[str, str]) -> None:
    """Look whether Ray can write what it writes on this machine: sockets, logs and its token.

    Raises:
        ClusterError: names the folder, and the variable that chooses another.
    """
    variable = "RAY_TMPDIR" if "RAY_TMPDIR" in environment else "TMPDIR"
    folder = environment.get(variable, "/tmp")
    if len(os.fsencode(folder.rstrip("/") + _SESSION)) > _SOCKET_BYTES:
        raise ClusterError(
            f"{variable}={folder}: too long for the sockets of Ray, {len(os.fsencode(folder))} bytes; "
            f"allowed: {_MOST_BYTES}; set RAY_TMPDIR to a shorter one, such as /tmp"
        )
    _check_writable(Path(folder) / "ray", _ROOM, f"set RAY_TMPDIR to a folder of at most {_MOST_BYTES} bytes")
    if environment.get("RAY_AUTH_TOKEN") or environment.get("RAY_AUTH_MODE") == "disabled":
        return
    token = Path(environment.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not os.access(token, os.R_OK):
        _check_writable(token.parent, 1, "Ray keeps its token there: set HOME to a folder for it")


def _check_writable(folder: Path, size: int, remedy: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(size))
            file.flush()
    except OSError as error:
        raise ClusterError(f"Ray cannot write to {folder} ({error.strerror or error}): {remedy}") from error


def start(address: str, cpus: int | None = None) -> None:
    """Start or join a Ray. What fails is tried a second time while there is time.

    Raises:
        ConnectionError: `address` is `auto`, and no Ray lives on this machine.
        ClusterError: it takes too long, or fails otherwise.
    """
    seconds = _START_SECONDS if address == "local" else _JOIN_SECONDS
    until = time.monotonic() + seconds
    for last in (False, True):
        try:
            _in_thread(lambda: _init(address, cpus), max(1.0, until - time.monotonic()))
            return
        except ConnectionError:
            raise
        except TimeoutError as error:
            raise ClusterError(
                f"Ray ({address}) did not answer within {seconds:.0f} s; is this machine too busy, "
                "or the head of the cluster? Start again when it is not"
            ) from error
        except (
            Exception
        ) as error:  # such as Ray's own limit of 30 seconds on a busy machine, a bare Exception
            if last:
                first = (str(error).strip().splitlines() or [""])[0]
                raise ClusterError(
                    f"Ray ({address}) cannot be started or joined: {type(error).__name__}: {first}; look at "
                    "free memory, at ulimit -u and -n, and at Ray's logs in its temporary folder"
                ) from error
            ray.shutdown()


def _init(address: str, cpus: int | None) -> None:
    logging.getLogger("ray._private.worker").addFilter(_is_no_news)
    ray.init(
        address,
        num_cpus=cpus,
        include_dashboard=False,
        logging_level=logging.WARNING,
        log_to_driver=False,
    )


def _is_no_news(record: logging.LogRecord) -> bool:
    """Whether a line of Ray's is to be shown: all but that SIGTERM is not its own beside the main thread."""
    return "SIGTERM" not in record.getMessage()


def _in_thread(action: Callable[[], None], seconds: float) -> None:
    """Run it beside the main thread, which meanwhile hears SIGTERM and has its handler left alone.

    The thread stays: Linux ends the processes that Ray has started when the thread that started them ends.
    """
    ended: Future[None] = Future()

    def run() -> None:
        try:
            action()
        except BaseException as error:
            ended.set_exception(error)
        else:
            ended.set_result(None)
            threading.Event().wait()

    threading.Thread(target=run, name="ray", daemon=True).start()
    if threading.current_thread() is not threading.main_thread():
        ended.result(seconds)
        return
    # Parts of Ray in C++ put a handler of their own beside Python's, which would end the process.
    on_sigterm, until = signal.getsignal(signal.SIGTERM), time.monotonic() + seconds
    while not ended.done() and time.monotonic() < until:
        if on_sigterm is not None:
            signal.signal(signal.SIGTERM, on_sigterm)
        wait([ended], timeout=0.02)
    if on_sigterm is not None:
        signal.signal(signal.SIGTERM, on_sigterm)
    ended.result(0)
