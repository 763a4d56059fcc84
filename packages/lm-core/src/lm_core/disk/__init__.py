"""Files that survive crashes, files that others may have made, and one process at a time in a folder."""
