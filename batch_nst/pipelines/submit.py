"""Runs a command as a job on a remote Ray cluster: one job per output, its log, its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

import batch_nst
from batch_nst.console import log
from batch_nst.data.images.style import MAX_BYTES, read_style
from batch_nst.data.models.files import is_in_zoo
from batch_nst.data.storage.fetch import fetch, is_remote
from batch_nst.data.storage.store import Store
from batch_nst.errors import BatchNSTError, JobError, LeaseError, RecipeError, Stopped
from batch_nst.figures import inlined
from batch_nst.recipe import Recipe

_START_SECONDS = 60.0
"""How long a head that has just started may refuse jobs."""
STOP_SECONDS = 40
"""Time from SIGTERM to SIGKILL when a job is stopped. Ray's default of 3 is too short to commit work."""
_RECIPE = "recipe.yaml"
_FOLLOW_SECONDS = 300.0
"""Interval to reconnect to a log: a dead connection looks like a quiet one."""
_SILENT_SECONDS = 120.0
"""How long the job server may be unreachable before the command gives up; the job itself continues."""
_OF_RAY = ("Missing authentication token", "Invalid authentication token")
"""What Ray's own answers 401 and 403 say; others come from something in between, such as a proxy."""


class PrintedFigures(TypedDict, total=False):
    """The JSON object that a command prints last: the figures of its run, and these."""

    command: str | None
    exit_code: int
    error: str


@dataclass(frozen=True)
class Submitted:
    """A job that was started or joined."""

    submission_id: str
    joined: bool
    """Whether it was there already."""
    status: str
    """As Ray calls it, such as SUCCEEDED."""


@dataclass(frozen=True, kw_only=True)
class FinishedJob:
    """A job that was waited for."""

    submitted: Submitted = inlined()
    job: PrintedFigures | None
    """What its command printed last; None if its log holds no figures."""


@dataclass(frozen=True)
class LatestJob:
    """The latest job of an output."""

    submission_id: str | None
    status: str
    entrypoint: str
    job_exit_code: int | None
    """None while it runs."""


@dataclass(frozen=True)
class NoJob:
    """The cluster has no job of this output."""

    submission_id: None = None
    status: None = None


def submit(
    recipe: Recipe,
    command: str,
    address: str,
    shared: bool = False,
    detach: bool = False,
    words: Sequence[str] = (),
) -> Submitted | FinishedJob:
    """Start a command on the cluster, or join the job that runs it already; wait, and show its log.

    Args:
        recipe: the recipe, with overrides applied.
        command: `nightly`, `generate` and so on.
        address: URL of the cluster's job server.
        shared: local paths of the recipe are the same files on all nodes.
        detach: do not wait.
        words: options of the command; visible to everybody who can list the cluster's jobs.

    Raises:
        RecipeError: a path exists only on this machine, or the style image cannot be read.
        LeaseError: a job with another command or recipe is running for this output.
        JobError: the job did not succeed.
        BatchNSTError: the job server is unreachable, or refuses the job.
    """
    if not shared:
        _check_paths(recipe)
    files = pack(recipe)
    with _short_errors(address):
        client = _client(address)
        name, joined = _begin(client, recipe, entrypoint(command, words), files)
        log(f"{'joined' if joined else 'submitted'} {name}: batch-nst {command}")
        if detach:
            return Submitted(name, joined, str(client.get_job_status(name)))
        job, text = _follow(client, name, address)
    printed = last_figures(text)
    figures = FinishedJob(submitted=Submitted(name, joined, str(job.status)), job=printed)
    if code := exit_code_of(job):
        why = (printed or {}).get("error") or str(job.message).partition("\n")[0]
        raise JobError(f"{name}: {job.status}: {why}", code, figures)
    return figures


def stop(recipe: Recipe, address: str) -> LatestJob | NoJob:
    """Stop the output's running job, if any, and wait: SIGTERM, and SIGKILL after `STOP_SECONDS`."""
    with _short_errors(address):
        client = _client(address)
        _, job = _latest(client, series(recipe.output))
        if job is not None and not job.status.is_terminal():
            client.stop_job(job.submission_id)
            log(f"stopping {job.submission_id}")
            while not job.status.is_terminal():
                time.sleep(0.5)
                job = client.get_job_info(job.submission_id)
    return _latest_figures(job, recipe)


def status(recipe: Recipe, address: str) -> LatestJob | NoJob:
    """The status of the output's latest job."""
    with _short_errors(address):
        _, job = _latest(_client(address), series(recipe.output))
    return _latest_figures(job, recipe)


def pack(recipe: Recipe) -> dict[str, bytes]:
    """The files sent with the code: the recipe, and a style image that is a file of this machine.

    Raises:
        RecipeError: the style image cannot be read or decoded.
    """
    files = {}
    if not is_remote(recipe.style.image):
        read_style(recipe.style)
        data = fetch(recipe.style.image, MAX_BYTES)
        name = f"{hashlib.sha256(data).hexdigest()[:16]}{Path(recipe.style.image).suffix}"
        files[name] = data
        recipe = recipe.model_copy(update={"style": recipe.style.model_copy(update={"image": name})})
    files[_RECIPE] = recipe.model_dump_json(indent=1).encode()
    return files


def entrypoint(command: str, words: Sequence[str]) -> str:
    """The line that runs a command with these options on the cluster."""
    return shlex.join(["python", "-m", "batch_nst", command, _RECIPE, *words])


def series(output: str) -> str:
    """What the ids of all jobs of an output begin with."""
    uri = Store(output).uri
    name = re.sub(r"[^A-Za-z0-9]+", "-", uri.rpartition("/")[2]).strip("-")[:32]
    return f"batch-nst-{name}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"


def exit_code_of(job: JobDetails) -> int:
    """Exit code of a finished job: 0 only if it succeeded, 143 if it was stopped, else its command's or 1."""
    if job.status == JobStatus.SUCCEEDED:
        return 0
    if job.status == JobStatus.STOPPED:
        return Stopped.exit_code
    code = job.driver_exit_code or 1
    return int(code) if code > 0 else 128 - int(code)  # a signal


def last_figures(text: str) -> PrintedFigures | None:
    """The last JSON object in a command's log, or None."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            with contextlib.suppress(ValueError):
                found = json.loads(line)
                return cast(PrintedFigures, found) if isinstance(found, dict) else None
    return None


def _check_paths(recipe: Recipe) -> None:
    """Refuse local paths: the cluster would not find them, or would write where nobody looks."""
    source = recipe.generate.input
    places = {
        "output": [recipe.output],
        "vgg.weights": [recipe.vgg.weights] if recipe.vgg.weights != "bundled" else [],
        "generate.input": [source] if isinstance(source, str) else source,
        "generate.init": [recipe.generate.init_model or ""],
        "train.init": [recipe.train.init_model or ""],
    }
    for key, uris in places.items():
        for uri in filter(None, uris):
            if not (is_remote(uri) or (key.endswith("init") and is_in_zoo(uri))):
                raise RecipeError(
                    f"{key}: {uri} is a path of this machine; allowed: a URI; or, with --shared, a path "
                    "under which all nodes of the cluster see the same files"
                )


def _client(address: str) -> JobSubmissionClient:
    if not re.match("https?://.", address):
        raise RecipeError(
            f"--address: given {address!r}; allowed: the URL of a job server, such as http://127.0.0.1:8265"
        )
    # Ray prefers this variable to its argument.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    _bypass_proxies(urlsplit(address).hostname or "")
    return JobSubmissionClient(address)


def _bypass_proxies(host: str) -> None:
    """Let nobody but a loopback host see its requests: each carries the cluster's token.

    Ray's client takes proxies from the environment, which usually does not exempt this machine.
    """
    if _is_loopback(host):
        exempt = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
        os.environ["no_proxy"] = f"{exempt},{host}" if exempt else host


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def _begin(
    client: JobSubmissionClient, recipe: Recipe, line: str, files: Mapping[str, bytes]
) -> tuple[str, bool]:
    """The id of the job that runs this command line, and whether it existed already."""
    prefix = series(recipe.output)
    # The style image counts too: its name in the recipe is a digest of its bytes.
    digest = hashlib.sha256(files[_RECIPE]).hexdigest()
    until = time.monotonic() + _START_SECONDS
    while True:
        number, latest = _latest(client, prefix)
        if latest is not None and not latest.status.is_terminal():
            name = str(latest.submission_id)
            if latest.entrypoint == line and (latest.metadata or {}).get("recipe") == digest:
                return name, True
            raise LeaseError(
                f"{recipe.output}: job {name} is running there, with another command or recipe "
                f"({latest.entrypoint}); wait until it has ended, or --stop it"
            )
        try:
            with _working_dir(files) as folder:
                name = client.submit_job(
                    entrypoint=line,
                    submission_id=f"{prefix}-{number + 1}",
                    metadata={"output": recipe.output, "recipe": digest},
                    runtime_env={
                        "working_dir": folder,
                        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)},
                    },
                )
            return str(name), False
        except RuntimeError as error:
            # A head that has just started lists jobs, and cannot start one yet.
            if "No available agent" in str(error) and time.monotonic() < until:
                time.sleep(1)
                continue
            # Somebody else may have submitted it in the meantime.
            if "already exists" not in str(error) or _latest(client, prefix)[0] == number:
                raise


def _latest(client: JobSubmissionClient, prefix: str) -> tuple[int, JobDetails | None]:
    """Number and details of the newest job of a series; 0 and None before the first."""
    found: dict[int, JobDetails] = {}
    for job in client.list_jobs():
        if match := re.fullmatch(rf"{re.escape(prefix)}-(\d+)", job.submission_id or ""):
            found[int(match[1])] = job
    number = max(found, default=0)
    return number, found.get(number)


@contextlib.contextmanager
def _working_dir(files: Mapping[str, bytes]) -> Iterator[str]:
    """A folder to send: these files, and the package if it runs from a checkout, not if it is installed."""
    package = Path(batch_nst.__file__).parent
    with tempfile.TemporaryDirectory(prefix="batch-nst-") as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        if (package.parent / "pyproject.toml").is_file():
            ignore = shutil.ignore_patterns("__pycache__", "samples")
            shutil.copytree(package, Path(folder) / package.name, ignore=ignore)
        yield folder


def _follow(client: JobSubmissionClient, name: str, address: str) -> tuple[JobDetails, str]:
    """Show a job's log until the job ends. Ending this command does not end the job."""
    shown, heard = _Log(), time.monotonic()
    try:
        while True:
            # The connection ends with the job, or sooner.
            with contextlib.suppress(aiohttp.ClientError, OSError, RuntimeError):
                asyncio.run(shown.follow(client, name))
            try:
                job = client.get_job_info(name)
                heard = time.monotonic()
                if job.status.is_terminal():
                    text = client.get_job_logs(name)
                    break
            except (OSError, RuntimeError):
                if time.monotonic() - heard > _SILENT_SECONDS:
                    raise
            time.sleep(1)
    except BaseException:
        log(
            f"{name} continues without this command: the same call joins it, "
            f"`batch-nst submit RECIPE --address {address} --stop` stops it"
        )
        raise
    shown.show(text)
    return job, text


class _Log:
    """Shows a job's log once, however often it is read."""

    def __init__(self) -> None:
        self._shown = 0

    def show(self, text: str) -> None:
        """Show the part of a whole log that has not been shown yet."""
        print(text[self._shown :], end="", file=sys.stderr, flush=True)
        self._shown = max(self._shown, len(text))

    async def follow(self, client: JobSubmissionClient, name: str) -> None:
        """Show new output until the connection ends."""
        read = 0
        async with asyncio.timeout(_FOLLOW_SECONDS):
            async for text in client.tail_job_logs(name):
                print(text[max(0, self._shown - read) :], end="", file=sys.stderr, flush=True)
                read += len(text)
                self._shown = max(self._shown, read)


def _latest_figures(job: JobDetails | None, recipe: Recipe) -> LatestJob | NoJob:
    if job is None:
        log(f"{recipe.output}: this cluster has no job of this output")
        return NoJob()
    log(f"{job.submission_id}: {job.status}: {str(job.message).partition(chr(10))[0]}")
    code = exit_code_of(job) if job.status.is_terminal() else None
    return LatestJob(job.submission_id, str(job.status), job.entrypoint, code)


@contextlib.contextmanager
def _short_errors(address: str) -> Iterator[None]:
    """Raise faults of the job server as errors of one line."""
    try:
        yield
    except AuthenticationError as error:
        raise BatchNSTError(f"--address {address}: {_refusal(address, error.message)}") from error
    except (OSError, RuntimeError) as error:
        raise BatchNSTError(f"--address {address}: {' '.join(str(error).split())[:1000]}") from error


def _refusal(address: str, message: str) -> str:
    """What an answer 401 or 403 means, and the remedy; `message` quotes it."""
    if any(words in message for words in _OF_RAY):
        return (
            "requires the cluster's token: set RAY_AUTH_MODE=token, and put the token into ~/.ray/auth_token "
            "or the file that RAY_AUTH_TOKEN_PATH names"
        )
    parts = urlsplit(address)
    code = 401 if message.startswith("Authentication required") else 403
    text = " ".join(re.sub("<[^>]*>", " ", message.partition(":")[2].rpartition("\n\n")[0]).split())[:200]
    proxy = getproxies().get(parts.scheme)
    asked = proxy is not None and not proxy_bypass(parts.netloc)
    whose = f"the proxy {proxy}, or what lies behind it," if asked else "something between here and Ray"
    remedy = f"set no_proxy={parts.hostname}, or let the proxy pass it" if asked else "ask who runs it"
    return f"{whose} answered {code}, and not Ray: {text or 'no text'}; {remedy}"
