"""The `segzero` command, one file per subcommand."""
