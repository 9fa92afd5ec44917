"""`python -m worker`: the command `cxrd`."""

from worker.cli.app import main

main()
