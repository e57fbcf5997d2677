"""`generate` without Ray: the same stages, one unit after the other in this process."""

from __future__ import annotations

from batch_nst.data.dataset.plan import survey
from batch_nst.data.dataset.snapshot import Snapshot, seal
from batch_nst.data.images.style import read_style
from batch_nst.data.storage.lease import acquire
from batch_nst.data.storage.store import Store
from batch_nst.pipelines.cluster.connect import Workers
from batch_nst.pipelines.generate.decode import decode_unit, planned_units
from batch_nst.pipelines.generate.stylizer import Stylizer
from batch_nst.pipelines.generate.write import write_unit
from batch_nst.recipe import Recipe

WORKERS = Workers("cpu", num_cpus=1, num_gpus=0, threads=4, most=1)
"""As many threads as an actor has on the tests' Ray: on Intel's processors products in fp32 have the same
bits with the same number of threads alone."""


def generate_here(recipe: Recipe, retry: bool = False) -> Snapshot:
    """Make what is pending, or with `retry` what has failed, and seal."""
    store, limits = Store(recipe.output), recipe.generate
    with acquire(store, "generate") as lease:
        plan = survey(recipe, store, retry).write_down(store)
        stylizer = Stylizer(read_style(recipe.style), recipe, WORKERS)
        summaries = {}
        for chunk in plan.chunks():
            for unit in planned_units(chunk, store, plan.split_of):
                outcome = write_unit(stylizer(decode_unit(unit, limits)), store, limits)
                summaries[outcome.unit] = outcome.summary
        return seal(store, lease.token, plan.in_input, summaries, recipe.quality)
