"""Sweeps: the file that describes one (config, yaml_file), and the values that it draws (distributions)."""
