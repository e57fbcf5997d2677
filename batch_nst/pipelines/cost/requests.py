"""How many requests `generate` sends to object stores: a formula over counts that are known in advance."""

from __future__ import annotations

from dataclasses import dataclass

from batch_nst.data.dataset.units import listed_folders
from batch_nst.data.storage.lease import SECONDS

_PAGE = 1000
"""Keys in a page of a listing, as on S3."""


@dataclass(frozen=True)
class Requests:
    """Requests by kind, as each kind has its own price. Deletes are free and are not counted."""

    reads: int
    """GET and HEAD."""
    writes: int
    """PUT."""
    lists: int
    """Pages of listings."""


@dataclass(frozen=True)
class Traffic:
    """Counts that decide the number of requests of a run. What is on a local disk counts as 0 or False."""

    photo_reads: int = 0
    """Photos to read; a photo counts once for each unit that has a crop of it."""
    units: int = 0
    """Units to be made."""
    listed: int = 0
    """Photos in an input that is a folder or a glob; tars or tables in one that consists of these."""
    looked_at: int = 0
    """Photos that listing requests one by one: those in a list of URIs or in a table without versions, and
    the headers in tars."""
    single_reads: int = 0
    """Reads of the style image and of a list of URIs, by the command itself."""
    weights: bool = False
    """Whether the recipe names the VGG-16 weights by a URI."""
    output: bool = False
    """Whether the output is in a bucket; all fields below are about such an output."""
    new_segments: int = 0
    """Segments to be written."""
    chunks: int = 0
    """Row groups of segments with units to be made."""
    segments: int = 0
    """Objects in `dataset/plan`."""
    planned: int = 0
    """Units in these segments."""
    done: int = 0
    """Units that are committed already."""
    reread: int = 0
    """Committed units that sealing reads, because their summaries are not gathered yet."""
    forgotten: int = 0
    """Objects in `dataset/forgotten`."""
    leases: int = 0
    """Objects in `lease`."""
    snapshots: int = 0
    """Objects in `dataset/snapshots`."""


def generate_requests(traffic: Traffic, devices: int = 1, seconds: float = 0.0) -> Requests:
    """The requests of one run of `generate` that has something to do, if no request fails.

    - reads of the input: each photo once per unit. One more per photo in a list of URIs, in a table without
      versions, or for its header in a tar. Small neighbours share a read; reads of tables are not counted.
    - reads of the recipe's files: the style image twice; weights twice, and once per device.
    - reads of the output: the previous lease, the settings twice (thrice if they exist), each segment, three
      for each row group with units to be made. Further, the latest snapshot twice, the requests to forget,
      the summaries, and each unit without a gathered summary.
    - writes: each unit; the lease when it is taken, tried and returned, and every third of its life. Once
      each: settings, segments, snapshot, summaries, card, and the run's summary.
    - lists of the input: its pages, and one more that shows whether it is a folder (a glob takes a few more).
    - lists of the output: the lease four times, the plan, the units twice (folder by folder if there are
      many), the snapshots twice, and the requests to forget. One request shows 1000 keys. An empty listing
      takes two requests and a read, because s3fs checks whether the folder is an object.

    Args:
        traffic: what exists and what is to be done.
        devices: actors that work at the same time.
        seconds: duration of the run; 0 leaves out renewals of the lease, 3 per minute.
    """
    reads = traffic.photo_reads + traffic.looked_at + traffic.single_reads + traffic.weights * (2 + devices)
    writes, lists = 0, 0
    listings = [1, traffic.listed] if traffic.listed else []
    if traffic.output:
        started = traffic.segments > 0
        reads += (traffic.leases > 0) + 2 + started + traffic.segments + 2 * (traffic.snapshots > 0)
        reads += 3 * traffic.chunks + traffic.reread + traffic.forgotten + 1
        writes += traffic.units + 8 + traffic.new_segments + int(seconds / (SECONDS / 3))
        listings += [traffic.leases, *[traffic.leases + 1] * 3, traffic.segments]
        listings += [*[traffic.snapshots] * 2, traffic.forgotten]
        later = traffic.planned + (traffic.units if traffic.new_segments else 0)
        for planned, done in ((traffic.planned, traffic.done), (later, traffic.done + traffic.units)):
            folders = len(listed_folders(planned))
            listings += [-(-done // folders)] * folders
    for keys in listings:
        lists += -(-keys // _PAGE) or 2
        reads += keys == 0
    return Requests(reads, writes, lists)
