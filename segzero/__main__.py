"""`python -m segzero` is the `segzero` command."""

from segzero.cli.main import main

main()
