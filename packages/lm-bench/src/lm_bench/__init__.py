"""lm-bench."""
