"""`python -m segzero` is the `segzero` command."""

from segzero.cli import main

main()
