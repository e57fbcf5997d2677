"""Generate, train, evaluate, export, publish, as a Ray job.

ray job submit --working-dir . -- python jobs/nightly.py RECIPE [section.key=value ...]
"""

import sys

from batch_nst.cli import main

if __name__ == "__main__":
    main(["nightly", *sys.argv[1:]])
