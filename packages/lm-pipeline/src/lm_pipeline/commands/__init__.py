"""The command lines, each a thin layer: a config, what it means, and the packages that do it."""
