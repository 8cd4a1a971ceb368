"""Makes tests/tiny.py importable as ``tiny``, and every test start from the same random state."""

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
# How long an example takes says more of the machine than of the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
# Tokens are kept for this session, and in its worker processes, but never in the home of whoever runs the tests.
_CACHE = tempfile.TemporaryDirectory(prefix="igascale-test-cache-")
os.environ["IGASCALE_CACHE"] = _CACHE.name


@pytest.fixture(autouse=True)
def _seeds():
    random.seed(0)
    torch.manual_seed(0)
