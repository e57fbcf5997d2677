"""`python -m batch_nst`: the command `batch-nst`."""

from batch_nst.cli import main

main()
