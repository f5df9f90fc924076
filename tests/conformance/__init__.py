"""CPython's own tests for `multiprocessing.Pool`, pointed at `bireme.Pool`."""
