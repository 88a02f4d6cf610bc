"""One cluster that most tests share. Each test must leave it as it found it: all nodes run, no link is cut, all are in sync."""

import dataclasses
import os
import random

import network as networks
import pytest
from cluster import Cluster


def pytest_addoption(parser):
    group = parser.getgroup("tally")

    def option(name, variable, default, text, kind=None):
        """Adds an option. An environment variable can change the default, for `scripts/test --soak`."""
        group.addoption(name, type=kind, default=os.environ.get(variable, default), help=f"{text}; default: %(default)s")

    option("--kills", "TALLY_TEST_FAILOVERS", "5", "how often the leading Tally is killed", int)
    option("--pauses", "TALLY_TEST_PAUSES", "5", "for how long the leading Tally is paused, in seconds")
    option("--chaos-seconds", "TALLY_TEST_CHAOS_SECONDS", "40", "the length of the random faults", float)
    # On a busy machine, healthy brokers may not answer each other for a second. With a timeout of a second, the brokers would then
    # believe that a broker is dead, and a failover would take longer.
    group.addoption("--session-ms", type=int, default=1000, help="broker.session.timeout.ms; default: %(default)s")
    group.addoption("--bounds", action="store_true", help="compares the times of failovers with their bounds")
    group.addoption("--seed", type=int, default=None, help="the seed of the random faults; default: another one each time")


@dataclasses.dataclass
class Options:
    kills: int
    bounds: bool
    pauses: list
    chaos_seconds: float
    seed: int
    session_ms: int


@pytest.fixture(scope="session")
def options(request):
    given = request.config.getoption
    pauses = [float(pause_s) for pause_s in given("--pauses").split(",")]
    seed = random.randrange(1 << 32) if given("--seed") is None else given("--seed")
    return Options(given("--kills"), given("--bounds"), pauses, given("--chaos-seconds"), seed, given("--session-ms"))


@pytest.fixture(scope="session")
def tally_binary():
    binary = os.environ.get("TALLY_BINARY", "")
    assert binary, "the variable TALLY_BINARY must name the program: `source scripts/tools && tally_binary`"
    return binary


def need_network():
    """Skips a test that needs network namespaces if this machine has none. With CI=true, the test fails instead."""
    why = networks.available()
    if why:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no network namespaces here: {why}")


@pytest.fixture(scope="module")
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
