"""What several test folders share: files in published formats, servers, launchers and random checkpoints."""
