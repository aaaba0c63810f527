"""
Prepared data sets of the tests go to a folder of the run, not to the cache of the user; the longest files begin; of
several workers each has one thread, as they share the cores.
"""

import os
import tempfile

_cache = tempfile.TemporaryDirectory(prefix="vis-tests-")
os.environ["HF_DATASETS_CACHE"] = _cache.name
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

LONGEST = ("test_e2e.py", "test_notebooks.py", "test_benchmarks.py")


def pytest_collection_modifyitems(items) -> None:
    """So that of several workers none is left with them at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
