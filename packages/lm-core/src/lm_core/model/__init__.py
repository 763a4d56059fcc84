"""Framework-free description of the model, shared by the backends: parameter table, initial arrays, FLOPs, memory."""
