"""SegZero's connection to verl: its plugin, the CPU as one of verl's platforms, and patches, each with its reason."""
