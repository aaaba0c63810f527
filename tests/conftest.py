"""Prepared datasets of the tests go to a folder of the test run, not to the user's cache."""

import os
import tempfile

_cache = tempfile.TemporaryDirectory(prefix="vis-tests-")
os.environ["HF_DATASETS_CACHE"] = _cache.name
