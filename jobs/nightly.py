"""Generate, train, evaluate, export, publish, as a Ray job.

ray job submit --working-dir . -- python jobs/nightly.py RECIPE [section.key=value ...]
"""

import sys

from batch_nst.cli import main

main(["nightly", *sys.argv[1:]])
