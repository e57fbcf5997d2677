"""How many requests `generate` sends to object stores: a formula of counts that are known beforehand."""

from __future__ import annotations

from dataclasses import dataclass

from batch_nst.data.dataset.units import listed_folders
from batch_nst.data.storage.lease import SECONDS

_PAGE = 1000
"""Keys in a page of a listing, as on S3."""


@dataclass(frozen=True)
class Requests:
    """Requests by kind, which have prices of their own; deletes cost nothing and are not counted."""

    reads: int
    """GET and HEAD."""
    writes: int
    """PUT."""
    lists: int
    """Pages of listings."""


@dataclass(frozen=True)
class Traffic:
    """What decides the requests of a run. What lies on a local disk counts as 0, or as False."""

    photo_reads: int = 0
    """Photos to read: one counts once for each unit that has a crop of it."""
    units: int = 0
    """To be made."""
    listed: int = 0
    """Photos in an input that is a folder or a glob; of one that is of tars or tables these."""
    looked_at: int = 0
    """Photos that are asked for one by one to list them: those of a list of URIs or of a table without
    versions, and the headers in tars."""
    single_reads: int = 0
    """Of the painting and a list of URIs, by the command."""
    weights: bool = False
    """Whether the VGG-16 weights are named by a URI."""
    output: bool = False
    """Whether the output is in a bucket; what follows is of such an output."""
    new_segments: int = 0
    """To be written."""
    chunks: int = 0
    """Row groups of segments with units to be made."""
    segments: int = 0
    """Objects in `dataset/plan`."""
    planned: int = 0
    """Units in these."""
    done: int = 0
    """Units that are committed already."""
    reread: int = 0
    """Reads of such units to seal them: those whose summaries are not gathered yet."""
    forgotten: int = 0
    """Objects in `dataset/forgotten`."""
    leases: int = 0
    """Objects in `lease`."""
    snapshots: int = 0
    """Objects in `dataset/snapshots`."""


def generate_requests(traffic: Traffic, devices: int = 1, seconds: float = 0.0) -> Requests:
    """The requests of one run of `generate` that has something to do, when no request fails.

    - reads: each photo once a unit, and once more to look at it where the input is a list of URIs or a table
      without versions, or for its header in a tar (small neighbours share a read; the few reads of tables
      themselves are not in it); the painting twice; weights twice and once a device. Of the output: the lease
      before, the settings (again where there are some), each segment, three for each of its row groups with
      units to be made, the latest snapshot twice, what is to be forgotten, the summaries, and units that are
      not among these.
    - writes: each unit; the lease when it is taken and given back, settings, segments, snapshot, summaries,
      card, the run's summary; the lease again every third of its life.
    - lists: the input, and a page to see of which kind it is (a folder; a glob takes a few more). Of the
      output: the lease four times, the plan, the units twice (folder by folder where there are many), the
      snapshots twice, what is to be forgotten. A request shows 1000 keys. Where there are none it takes two
      and a read, because s3fs tries whether the folder is an object.

    Args:
        traffic: what there is and what is to be done.
        devices: actors that work at the same time.
        seconds: how long the run takes; 0 leaves the renewals of the lease out, 3 a minute.
    """
    reads = traffic.photo_reads + traffic.looked_at + traffic.single_reads + traffic.weights * (2 + devices)
    writes, lists = 0, 0
    listings = [1, traffic.listed] if traffic.listed else []
    if traffic.output:
        begun = traffic.segments > 0
        reads += (traffic.leases > 0) + 1 + begun + traffic.segments + 2 * (traffic.snapshots > 0)
        reads += 3 * traffic.chunks + traffic.reread + traffic.forgotten + 1
        writes += traffic.units + 7 + traffic.new_segments + int(seconds / (SECONDS / 3))
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
