"""Runs the command `benchmark` on a node as a Ray job.

ray job submit --working-dir . -- python jobs/benchmark.py --quick
"""

import sys

from batch_nst.cli import main

if __name__ == "__main__":
    main(["benchmark", *sys.argv[1:]])
