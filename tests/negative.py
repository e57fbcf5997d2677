"""What stands in for the engine: a unit's pictures are the photos' negatives, without a tensor."""

from __future__ import annotations

import time

import numpy as np

from batch_nst.pipelines.generate.tasks import IN_FLIGHT, Row, pack, unpack


def negative(unit: Row, seconds: float = 0.0) -> Row:
    """What `Stylizer` makes of a unit, in at least so many seconds; the same pixels and losses always."""
    if unit["outage"]:
        return {**unit, "seconds": 0.0, "began": 0.0}
    start, began = time.perf_counter(), time.time()
    if seconds:
        time.sleep(seconds)
    rows = unpack(unit["photos"])
    for row in rows:
        if row["status"] == "ok":
            pixels = np.frombuffer(row["content"], np.uint8)
            row |= {name: float(pixels.mean()) for name in ("content_loss", "style_loss", "total_loss")}
            row |= {"stylized": (255 - pixels).tobytes(), "engine": "negative"}
    timing = {"began": began, "seconds": time.perf_counter() - start}
    return {**unit, "photos": pack(rows, IN_FLIGHT), **timing}
