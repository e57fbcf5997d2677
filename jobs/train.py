"""Train the fast model on the pairs, as a Ray job.

ray job submit --working-dir . -- python jobs/train.py RECIPE [section.key=value ...]
"""

import sys

from batch_nst.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
