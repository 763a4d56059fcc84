"""testbed_d."""
