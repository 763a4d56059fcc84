"""For every suite: one thread, because the models in tests are so small that a second one costs more than it gives.

Set OMP_NUM_THREADS to try another number.
"""

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
