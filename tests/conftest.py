"""Makes tests/tiny.py importable as ``tiny``, and every test start from the same random state.

Hypothesis draws the same examples in every run, so that a test passes everywhere or nowhere. To look for new ones:
``pytest --hypothesis-profile=search TESTS``, again and again; an example that fails is then written into its test.
"""

import os
import random
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
# No limit on the time of an example or of drawing it: that is about the machine and who else works on it.
settings.register_profile(
    "search", deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None, print_blob=True
)
settings.register_profile("same", settings.get_profile("search"), derandomize=True)
settings.load_profile("same")
# Tokens are kept for this session, and in its worker processes, but never in the home of whoever runs the tests.
_CACHE = tempfile.TemporaryDirectory(prefix="igascale-test-cache-")
os.environ["IGASCALE_CACHE"] = _CACHE.name


@pytest.fixture(autouse=True)
def _seeds():
    random.seed(0)
    torch.manual_seed(0)
