"""Before any test: one thread per process, for several processes share the cores. Notebooks' kernels inherit it."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
