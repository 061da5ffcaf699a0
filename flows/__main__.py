"""`python -m flows` is `orpo-pipeline`."""

from flows.cli import main

main()
