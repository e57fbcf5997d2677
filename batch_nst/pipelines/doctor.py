"""Checks whether stores, weights, clocks and machines are as a recipe needs them, before a run fails."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from batch_nst import __version__
from batch_nst.console import log, warn
from batch_nst.credentials import redacted
from batch_nst.data.images.style import read_style
from batch_nst.data.sources.photos import Photo, stream_photos, uri_of
from batch_nst.data.sources.reader import read_photos
from batch_nst.data.storage.fetch import TooLarge, open_filesystem, with_retries
from batch_nst.data.storage.lease import CLOCK_SKEW
from batch_nst.data.storage.store import Store
from batch_nst.data.vgg_weights import weights_digest
from batch_nst.errors import BatchNSTError, IncompleteError, StorageError
from batch_nst.pipelines.cluster.address import check_address
from batch_nst.pipelines.cluster.gpu import look_at_gpu
from batch_nst.pipelines.cluster.stop import DOCTOR_MINUTES
from batch_nst.pipelines.generate.run import check_weights
from batch_nst.recipe import Recipe

if TYPE_CHECKING:
    from batch_nst.pipelines.cluster.nodes import Node

_PHOTOS = 3
"""Number of photos to try; one of them must be readable, as some may be bad."""
_ANSWER_SECONDS = 120.0
"""Limit for all nodes to answer, including the start of their workers."""
_TOLD = 400
"""Maximum length of a finding, in characters."""

_SECRET = re.compile(r"(SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|SIGNATURE|SAS|KEY)", re.IGNORECASE)
_PLACE = re.compile(r"(PATH|FILE|URI|URL|MODE|DIR)$", re.IGNORECASE)
"""Variables with such names hold the place of a secret, not the secret."""


@dataclass(frozen=True)
class Check:
    """A check and its finding."""

    name: str
    state: Literal["ok", "failed", "skipped"]
    told: str
    """The finding, in one line, without secrets."""
    remedy: str = ""
    """What to do if it failed."""


@dataclass(frozen=True)
class DoctorFigures:
    """Number of checks by state, and all checks."""

    ok: int
    failed: int
    skipped: int
    checks: list[Check]


@dataclass(frozen=True)
class _Node:
    """A node of the cluster that is up; on a Ray inside this process, this machine."""

    name: str
    """Address and start of the id."""
    gpus: float
    """Number of GPUs that Ray sees there."""
    handle: Node
    """The node as `connect.ask` takes it."""


def doctor(recipe: Recipe, wait_minutes: float = DOCTOR_MINUTES) -> DoctorFigures:
    """Check everything that a recipe needs, with a log line for each check. Leaves nothing behind.

    Where GPUs are wanted and none is up, the cluster is asked for one, and has `wait_minutes` to start it.
    Imports torch for the weights, and Ray for the checks of the cluster.

    Raises:
        IncompleteError: a check failed.
    """
    checks: list[Check] = []
    for check in _examine(recipe, Store(recipe.output), wait_minutes):
        tell = warn if check.state == "failed" else log
        tell(f"{check.state:<9}{check.name:<10}{check.told}")
        if check.remedy:
            tell(f"{'':<19}remedy: {check.remedy}")
        checks.append(check)
    counts = Counter(check.state for check in checks)
    figures = DoctorFigures(counts["ok"], counts["failed"], counts["skipped"], checks)
    if failed := [check.name for check in checks if check.state == "failed"]:
        raise IncompleteError(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}", figures)
    return figures


def _examine(recipe: Recipe, store: Store, wait_minutes: float) -> Iterator[Check]:
    yield _check(
        "painting",
        partial(_style_image, recipe),
        "name an image in style.image that this machine can read",
    )
    yield _check(
        "weights",
        partial(_weights, recipe),
        "reinstall batch_nst for the bundled file, or name a readable safetensors file in vgg.weights",
    )
    yield _check(
        "input",
        partial(_input, recipe),
        "fix generate.input, or let these credentials list and read it",
    )
    output = _check(
        "output",
        partial(_output, store),
        "let these credentials write, read, list and delete there; a store must support If-None-Match (AWS, "
        "Google and Azure do), a disk hard links or an exclusive rename",
    )
    yield output
    if output.state == "ok":
        yield _check("clock", partial(_clock, store), "synchronise this machine's clock (NTP)")
    else:
        yield Check("clock", "skipped", "needs an output to compare with")
    joined = _check(
        "cluster",
        _join,
        "set RAY_ADDRESS to HOST:PORT of a running head, or unset it; if the cluster requires a token, set "
        "RAY_AUTH_MODE=token and put it into ~/.ray/auth_token; from outside the cluster: batch-nst submit "
        "RECIPE --command doctor",
    )
    yield joined
    if joined.state == "ok":
        yield from _examine_nodes(recipe, store, wait_minutes)
    else:
        for name in ("nodes", "stores", "clocks", "device"):
            yield Check(name, "skipped", "no cluster was reached")


def _examine_nodes(recipe: Recipe, store: Store, wait_minutes: float) -> Iterator[Check]:
    """The checks of each node."""
    nodes = _nodes()
    answers = _ask(nodes, versions)
    yield _check(
        "nodes",
        lambda: _equal([node.name for node in nodes], answers, versions()),
        "install the same batch_nst, ray, torch and python on every node, as cluster.yaml does",
    )
    # Nodes that did not answer are not asked again.
    there = [node for node, answer in zip(nodes, answers, strict=True) if not isinstance(answer, Exception)]
    yield _check(
        "stores",
        lambda: _stores(recipe, store, there),
        "give every node the credentials and the network access of this machine; a local output must be on a "
        "disk that all nodes share",
    )
    yield _check("clocks", lambda: _clocks(there), "synchronise the clocks of all nodes (NTP)")
    yield _check(
        "device",
        lambda: _device(recipe, there, wait_minutes),
        "install a newer NVIDIA driver, or a torch for the old one, where Ray sees a GPU; for nodes "
        "that take longer to start, --wait-for-nodes MINUTES; or set generate.device and train.device to cpu",
    )


def _nodes() -> list[_Node]:
    from batch_nst.pipelines.cluster.nodes import living_nodes

    return [
        _Node(
            name=f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})",
            gpus=node["Resources"].get("GPU", 0),
            handle=node,
        )
        for node in living_nodes()
    ]


def _ask(nodes: Sequence[_Node], question: Callable[..., object], *arguments: object) -> list[Any]:
    """The result of a function on each of these nodes, or its exception."""
    from batch_nst.pipelines.cluster import connect

    asked = connect.ask([node.handle for node in nodes], question, *arguments)
    return connect.answers(asked, _ANSWER_SECONDS)


# --- the checks: each returns its finding, or raises what is wrong


def _style_image(recipe: Recipe) -> str:
    height, width, _ = read_style(recipe.style).pixels.shape
    return f"{recipe.style.image}: {width} x {height} pixels"


def _weights(recipe: Recipe) -> str:
    check_weights(recipe)
    return f"{recipe.vgg.weights}: sha256 {weights_digest(recipe.vgg)}"


def _input(recipe: Recipe) -> str:
    source = recipe.generate.input
    # Listing a list of URIs takes a request per photo.
    first = source if isinstance(source, str) else source[:_PHOTOS]
    batches = stream_photos(first, recipe.generate.stores, recipe.generate.pattern)
    batch = next(batch for batch in batches if batch.num_rows)
    photos = [Photo(**row) for row in batch.select(Photo._fields).slice(0, _PHOTOS).to_pylist()]
    faults = []
    for photo, data in zip(photos, read_photos(photos, recipe.generate.max_bytes), strict=True):
        if isinstance(data, TooLarge):
            return f"{uri_of(photo)}: {data.size:,} bytes"
        if not isinstance(data, Exception):
            return f"{uri_of(photo)}: {len(data):,} bytes"
        faults.append(f"{uri_of(photo)}: cannot be read: {data}")
    raise StorageError("; ".join(faults))


def _output(store: Store) -> str:
    with _probe(store) as name:
        if store.create(name, b"second") or store.read(name) != b"first":
            raise StorageError(f"{store.uri}: exclusive create does not work: a second writer succeeded")
    if store.exists(name):
        raise StorageError(f"{store.join(name)}: still exists after it was deleted")
    return f"{store.uri}: created, refused to a second writer, deleted"


def _clock(store: Store) -> str:
    before = time.time()
    with _probe(store) as name:
        after = time.time()
        filesystem, path = open_filesystem(store.join(name))
        written = with_retries(f"look at {store.join(name)}", lambda: filesystem.modified(path))
    # Stores report whole seconds.
    return _within(_apart(written.timestamp(), before - 1, after), f"clock of {store.uri}")


@contextlib.contextmanager
def _probe(store: Store) -> Iterator[str]:
    """The name of a temporary object that holds `first`."""
    name = f".tmp/doctor-{uuid.uuid4().hex}"
    if not store.establish(name, b"first"):
        raise StorageError(f"{store.join(name)}: does not hold what was written")
    try:
        yield name
    finally:
        store.delete(name)


def _join() -> str:
    address = os.environ.get("RAY_ADDRESS", "")
    if address not in ("", "auto", "local"):
        check_address(address)

    from batch_nst.pipelines.cluster import connect
    from batch_nst.pipelines.cluster.nodes import living_nodes

    _warn_of_newer_ray(version("ray"), connect.NEWEST_RAY_SEEN)
    connect.connect()
    nodes = living_nodes()
    total = {name: sum(node["Resources"].get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
    place = f"RAY_ADDRESS {address}" if address else "no RAY_ADDRESS"
    return f"{place}: {len(nodes)} nodes up, {total['CPU']:g} CPUs, {total['GPU']:g} GPUs"


def _warn_of_newer_ray(installed: str, seen: str) -> None:
    """Warn before Ray starts: a newer one may fail in ways that no test has seen."""
    if _numbers(installed) > _numbers(seen):
        warn(
            f"warning: ray {installed} is newer than {seen}, the newest that batch_nst is tested with; if "
            f"something fails, try ray=={seen}"
        )


def _numbers(release: str) -> list[int]:
    """The comparable parts of a version, such as 2, 60, 0."""
    return [int(part) for part in re.findall(r"\d+", release)[:3]]


def versions() -> dict[str, str]:
    """Versions that must be equal on all nodes; that of torch without its CUDA suffix."""
    return {
        "batch_nst": __version__,
        "ray": version("ray"),
        "torch": version("torch").partition("+")[0],
        "python": platform.python_version(),
    }


def _equal(names: Sequence[str], answers: Sequence[Any], here: dict[str, str]) -> str:
    faults = []
    for name, found in zip(names, answers, strict=True):
        if isinstance(found, Exception):
            faults.append(f"{name}: {_line(found)}")
            continue
        faults += [
            f"{name}: {library} {found.get(library)}, here {wanted}"
            for library, wanted in here.items()
            if found.get(library) != wanted
        ]
    if faults:
        raise IncompleteError("; ".join(faults))
    return f"{len(names)} with {', '.join(f'{library} {number}' for library, number in here.items())}"


def _reach(recipe: Recipe) -> None:
    """Run on a node: read a photo and write to the output, as this machine did."""
    _input(recipe)
    _output(Store(recipe.output))


def _stores(recipe: Recipe, store: Store, nodes: Sequence[_Node]) -> str:
    from batch_nst.pipelines.cluster import connect

    # Before nodes write: one that does not share the output would create its own.
    connect.check_output_is_shared(store)
    faults = [
        f"{node.name}: {_line(found)}"
        for node, found in zip(nodes, _ask(nodes, _reach, recipe), strict=True)
        if isinstance(found, Exception)
    ]
    if faults:
        raise StorageError("; ".join(faults))
    return f"input and output reached from {len(nodes)} nodes"


def _clocks(nodes: Sequence[_Node]) -> str:
    widest = 0.0
    for node in nodes:
        before = time.time()
        (answer,) = _ask([node], _now)
        if isinstance(answer, Exception):
            raise answer
        apart = _apart(answer, before, time.time())
        _within(apart, f"clock of node {node.name}")
        widest = max(widest, abs(apart))
    return f"{len(nodes)} nodes, {widest:.1f} s from this machine's at most"


def _now() -> float:
    """Run on a node: its clock."""
    return time.time()


def _device(recipe: Recipe, nodes: Sequence[_Node], wait_minutes: float) -> str:
    from batch_nst.pipelines.cluster import connect

    chosen = [
        connect.choose_workers(recipe.generate.device, wait_minutes),
        # One GPU is looked at; training would wait for more.
        connect.trainers_of(connect.choose_workers(recipe.train.device, wait_minutes), recipe.train),
    ]
    looked = ""
    if any(workers.device == "cuda" for workers in chosen):
        looked = connect.ask_a_gpu(look_at_gpu, _ANSWER_SECONDS, recipe.generate.image_size)
    expected = [node for node in nodes if node.gpus]
    seen = _ask(expected, _gpus)
    if looked:
        for node, found in zip(expected, seen, strict=True):
            if isinstance(found, Exception):
                raise found
            if len(found) < node.gpus:
                raise IncompleteError(
                    f"{node.name}: Ray has {node.gpus:g} GPUs there, torch sees {len(found)}"
                )
    generate, train = (workers.device for workers in chosen)
    kinds = ", ".join(
        f"{count} x {kind}" for kind, count in Counter(kind for found in seen for kind in found).items()
    )
    return (
        f"generate on {generate} by {chosen[0].in_words(recipe.generate.actors)}; "
        f"train on {train}; GPUs that are up: {kinds or 'none'}"
        f"{'; looked at: ' if looked else ''}{looked}"
    )


def _gpus() -> list[str]:
    """Run on a node: the names of the GPUs that torch can use."""
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _apart(moment: float, earliest: float, latest: float) -> float:
    """Least number of seconds by which a clock is ahead, or behind (< 0).

    It read `moment` between `earliest` and `latest` of this machine's clock.
    """
    return min(0.0, moment - earliest) + max(0.0, moment - latest)


def _within(apart: float, whose: str) -> str:
    if abs(apart) > CLOCK_SKEW:
        way = "ahead of" if apart > 0 else "behind"
        raise StorageError(f"{whose}: {abs(apart):.1f} s {way} this machine's; allowed: {CLOCK_SKEW:g} s")
    return f"{whose}: {abs(apart):.1f} s from this machine's; allowed: {CLOCK_SKEW:g} s"


# --- findings


def _check(name: str, look: Callable[[], str], remedy: str) -> Check:
    """Make one check; any exception is its finding."""
    try:
        return Check(name, "ok", _discreet(look()))
    except Exception as error:
        return Check(name, "failed", _discreet(_line(error)), remedy)


def _line(error: Exception) -> str:
    """An error in one line, without Ray's traceback if it was raised on a node."""
    error = getattr(error, "cause", None) or error
    kind = "" if isinstance(error, BatchNSTError) else f"{type(error).__name__}: "
    return f"{kind}{error}"


def _discreet(text: str) -> str:
    """A line without secrets: passwords and queries in URIs, and secret values of the environment."""
    text = redacted(" ".join(text.split()))
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET.search(name) and not _PLACE.search(name):
            text = text.replace(value, "***")
    return text if len(text) <= _TOLD else f"{text[:_TOLD]}..."
