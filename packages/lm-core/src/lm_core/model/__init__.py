"""What both backends must agree on before any tensor exists: the parameter table and the initial arrays."""
