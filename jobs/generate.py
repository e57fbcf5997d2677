"""Make or continue the dataset of pairs, as a Ray job.

ray job submit --working-dir . -- python jobs/generate.py RECIPE [section.key=value ...]
"""

import sys

from batch_nst.cli import main

if __name__ == "__main__":
    main(["generate", *sys.argv[1:]])
