"""Laws of `--notify`: the figures arrive, its failure is a warning, and its address is shown nowhere."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from batch_nst.data.models.gate import publish
from batch_nst.data.storage.lease import acquire
from batch_nst.data.storage.store import Store
from batch_nst.pipelines import nightly, notify
from tests.support.calls import Call, Ended
from tests.support.fake_night import begin, finish, objects
from tests.support.served import served

SECRET = "7f3dc0ffee"
PATH = f"/hooks/{SECRET}?key={SECRET}"


class Hook(ThreadingHTTPServer):
    """A server that somebody watches."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.status, self.location = 204, ""
        self.hangs, self.over = False, threading.Event()
        self.received: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: dict[str, str] = {}
        self.words: list[bytes] = []
        """Of all processes, while a request was answered, those that hold the secret."""
        self.place = f"127.0.0.1:{self.server_port}"
        self.url = f"http://{self.place}{PATH}"


class _Connection(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        hook = self.server
        hook.paths.append(self.path)
        hook.headers = {name.lower(): value for name, value in self.headers.items()}
        hook.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        hook.words += [words for words in command_lines() if SECRET.encode() in words]
        if hook.hangs:
            hook.over.wait(60)
        self.send_response(hook.status)
        if hook.location:
            self.send_header("Location", hook.location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def command_lines() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            yield path.read_bytes()


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with served(Hook()) as found:
        yield found
        found.over.set()


def warning(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    ended = capsys.readouterr()
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert SECRET not in ended.err
    told = "warning: --notify http://127.0.0.1: the figures were not delivered: "
    assert ended.err.startswith(told)
    return ended.err.removeprefix(told).rstrip()


# --- what is posted


def test_an_object_arrives_as_it_is_and_nothing_is_said(
    hook: Hook, capsys: pytest.CaptureFixture[str]
) -> None:
    notify.post(hook.url, '{"made": 3}')
    assert hook.received == [{"made": 3}]
    assert hook.paths == [PATH]
    assert hook.headers["content-type"] == "application/json"
    assert capsys.readouterr() == ("", "")


def test_a_password_in_the_address_is_sent_as_one(hook: Hook) -> None:
    notify.post(f"http://night:{SECRET}@{hook.place}/", "{}")
    assert hook.headers["authorization"].startswith("Basic ")


@pytest.mark.parametrize("status", [500, 404, 302])
def test_an_answer_that_is_no_success_is_a_warning(
    hook: Hook, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    hook.status = status
    notify.post(hook.url.replace("http://", f"http://night:{SECRET}@"), "{}")
    assert warning(capsys) == f"answered {status}"


def test_a_redirect_is_not_followed(hook: Hook, capsys: pytest.CaptureFixture[str]) -> None:
    with served(Hook()) as other:
        hook.status, hook.location = 307, other.url
        notify.post(hook.url, "{}")
        assert other.received == []
    assert warning(capsys) == "answered 307"


def test_nobody_there_is_a_warning(
    free_ports: Callable[[int], list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    notify.post(f"http://127.0.0.1:{free_ports(1)[0]}{PATH}", "{}")
    assert warning(capsys).startswith("Connect call failed")


def test_who_does_not_answer_is_not_waited_for(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notify, "_SECONDS", 0.2)
    hook.hangs = True
    notify.post(hook.url, "{}")
    assert warning(capsys) == "TimeoutError"


# --- nights


def start(*words: str, url: str = "") -> subprocess.Popen[str]:
    """A night in a process of its own, with the address in the environment or among the words."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "batch_nst", "nightly", *words],
        env=os.environ | {notify.VARIABLE: url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def night(hook: Hook, call: Call, monkeypatch: pytest.MonkeyPatch) -> Call:
    """A night in this process, with the address in the environment."""

    def run(*words: str) -> Ended:
        monkeypatch.setenv(notify.VARIABLE, hook.url)  # the command takes it away, for its children
        return call("nightly", *words)

    return run


@pytest.fixture
def finished(tmp_path: Path) -> tuple[str, Store]:
    """The recipe's file and the output of a night that is over."""
    recipe, store, version = finish(begin(tmp_path), {"a": 50.0})
    publish(version, recipe.publish, store, 0)
    return str(tmp_path / "recipe.yaml"), store


def test_a_night_posts_what_it_prints_and_nobody_sees_where(hook: Hook, finished: tuple[str, Store]) -> None:
    file, store = finished
    before = objects(store)
    printed = []
    for words in ([file, "--notify", hook.url], [f"--notify={hook.url}", file]):
        process = start(*words)
        stdout, stderr = process.communicate()
        assert (process.returncode, stderr.count("\n")) == (0, 1), stderr  # nothing new
        assert SECRET not in stdout + stderr
        printed.append(json.loads(stdout))
    assert hook.received == printed
    assert hook.received[0]["nothing_new"] is True
    assert hook.received[0]["output"] == store.uri
    assert objects(store) == before
    assert not any(SECRET.encode() in store.read(name) for name in store.list())
    assert hook.words == []


IGNORED = """
import signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
ran = subprocess.Popen([sys.executable, "-c", sys.argv[1], *sys.argv[2:]])
sys.exit(ran.wait())
"""
SIGINT = """
import os, signal
from batch_nst import cli
cli.load_recipe = lambda *_: os.kill(os.getpid(), signal.SIGINT) or {}["outlived"]
cli.main()
"""


def test_a_command_that_starts_itself_anew_in_the_background_ignores_ctrl_c_as_before(hook: Hook) -> None:
    words = [sys.executable, "-c", IGNORED, SIGINT, "nightly", "recipe.yaml", "--notify", hook.url]
    ran = subprocess.run(words, capture_output=True, text=True)
    assert ran.returncode == 1
    assert "KeyError: 'outlived'" in ran.stderr


def test_a_night_that_fails_is_posted_with_its_exit_code_and_error(
    hook: Hook, finished: tuple[str, Store], night: Call
) -> None:
    file, store = finished
    wrong = night(file, "train.step=1")
    with acquire(store, "somebody"):
        held = night(file)
    (Path(file).parent / "painting.png").unlink()
    failed = night(file)
    calls = (wrong, held, failed)
    assert [ended.code for ended in calls] == [2, 4, 2]
    assert hook.received == [ended.figures for ended in calls]
    assert [told["exit_code"] for told in hook.received] == [2, 4, 2]
    assert "train.step: unknown key" in hook.received[0]["error"]
    assert "somebody" in hook.received[1]["error"]
    assert "painting.png" in hook.received[2]["error"]
    assert "run" not in hook.received[2]  # nothing has begun


def summary_of(store: Store) -> dict[str, Any]:
    """What the one run of a night has written down."""
    (name,) = (name for name in store.list("runs") if name.endswith("summary.json"))
    return dict(json.loads(store.read(name)))


def test_a_night_that_is_stopped_is_posted_as_its_run_tells_it(
    hook: Hook, finished: tuple[str, Store], night: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, store = finished
    monkeypatch.setattr(nightly, "find_finished", lambda *_: signal.raise_signal(signal.SIGTERM))
    ended = night(file)
    assert ended.code == 143
    (told,) = hook.received
    assert told == ended.figures
    assert told["error"] == "stopped by SIGTERM; start it again and it continues"
    written = summary_of(store)
    del written["started"], written["seconds"], told["seconds"]
    assert told == written | {"exit_code": 143}


def test_of_a_bug_nothing_but_its_kind_is_posted(
    hook: Hook, finished: tuple[str, Store], night: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, store = finished
    monkeypatch.setattr(nightly, "find_finished", lambda *_: {}[SECRET])
    with pytest.raises(KeyError, match=SECRET):
        night(file)
    assert hook.received == [{"command": "nightly", "exit_code": 1, "error": "a bug: KeyError"}]
    assert summary_of(store)["error"] == "a bug: KeyError"


def test_a_night_is_as_good_as_it_was_when_nobody_takes_its_figures(
    hook: Hook, finished: tuple[str, Store], night: Call
) -> None:
    hook.status = 500
    ended = night(finished[0])
    assert ended.code == 0
    *_, last = ended.stderr.splitlines()
    assert last == "warning: --notify http://127.0.0.1: the figures were not delivered: answered 500"
    assert SECRET not in ended.stdout + ended.stderr


def test_an_answer_is_not_needed_to_stop_a_night(hook: Hook, finished: tuple[str, Store]) -> None:
    """SIGTERM while the figures are posted: the night is over, and ends as it was."""
    hook.hangs = True
    process = start(finished[0], url=hook.url)
    while not hook.received:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    hook.over.set()
    _, stderr = process.communicate()
    assert process.returncode == 0
    assert "Traceback" not in stderr


@pytest.mark.parametrize("url", [f"ftp://x/{SECRET}", f"http:///{SECRET}", SECRET, f"http://[{SECRET}", ""])
def test_an_address_that_is_none_is_refused_and_not_shown(call: Call, url: str) -> None:
    ended = call("nightly", "recipe.yaml", f"--notify={url}")
    assert ended.code == 2
    assert "--notify: allowed: an http or https URL; what was given is not shown" in ended.stderr
    assert SECRET not in ended.stdout + ended.stderr
