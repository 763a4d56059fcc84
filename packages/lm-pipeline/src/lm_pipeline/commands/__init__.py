"""The command lines, each a thin layer: a config, its translation, and calls of the packages."""
