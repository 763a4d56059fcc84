"""Whether what a run left on disk is whole: `check` reads a run folder, `claims` what its checkpoints know of it."""
