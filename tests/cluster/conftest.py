"""One cluster for most tests. Each test must leave it as it was: all nodes run, no link is cut, all replicas are in sync."""

import os

import network as networks
import pytest
from cluster import Cluster


def need_network():
    """Ends a test that needs network namespaces, if this machine has none. With CI=true this is a failure."""
    why = networks.available()
    if why:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no network namespaces here: {why}")


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster"), network=not networks.available()) as cluster:
        cluster.start()
        yield cluster
        cluster.stop()


@pytest.fixture
def cluster(shared):
    shared.wait_in_sync()
    yield shared
    if shared.network:
        shared.network.heal()
    for node in shared.nodes:
        if node.paused:
            node.resume()
        if not node.running:
            node.start()


@pytest.fixture
def network(cluster):
    need_network()
    return cluster.network
