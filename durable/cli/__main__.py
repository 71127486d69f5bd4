"""`python -m durable.cli`: the command line where the script `durable` is not on the path."""

from durable.cli import main

main()
