"""The two hosts and the Slurm cluster of this folder's tests, started once for each file that asks for them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import slurm_cluster
import two_hosts


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    reason = two_hosts.missing()
    if reason:
        pytest.skip(reason)
    pair = two_hosts.TwoHosts(tmp_path_factory.mktemp("hosts"))
    try:
        yield pair
    finally:
        pair.close()


@pytest.fixture
def quiet_hosts(hosts):
    """The two hosts; after the test nothing may run on them, whether it passed or not."""
    try:
        yield hosts
        left = hosts.left_over()
    finally:
        hosts.tidy()
    assert not left, left


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    reason = slurm_cluster.missing()
    if reason:
        pytest.skip(reason)
    cluster = slurm_cluster.SlurmCluster(tmp_path_factory.mktemp("slurm"))
    try:
        yield cluster
    finally:
        cluster.close()
