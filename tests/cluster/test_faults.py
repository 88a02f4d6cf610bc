"""Checks that the brokers keep their guarantees under the faults that the cluster can inject. The tests of Tally rely on this."""

import socket
import time

from brokers import MESSAGE_BYTES_MAX, TOPIC_SETTINGS
from cluster import TOPIC
from confluent_kafka.admin import ConfigResource, ResourceType
from writer import Writer


def test_the_topic_has_the_settings_of_a_ledger(cluster):
    admin = cluster.admin()
    resource = ConfigResource(ResourceType.TOPIC, TOPIC)
    found = admin.describe_configs([resource])[resource].result()
    assert {key: found[key].value for key in TOPIC_SETTINGS} == TOPIC_SETTINGS
    assert cluster.in_sync()[0] == [1, 2, 3]


def test_the_largest_block_fits(cluster):
    """Writes a record of 7 MiB: the limit of 8 MiB includes the headers."""
    with Writer(cluster, bytes_per_record=MESSAGE_BYTES_MAX - (1 << 20)) as writer:
        pass
    writer.check()


def test_a_killed_leader(cluster):
    with Writer(cluster) as writer:
        leader = cluster.leader()
        leader.kill()
        writer.wait_for_progress()
        leader.start()
        cluster.wait_in_sync()
        writer.wait_for_progress()
    writer.check()


def test_a_killed_follower(cluster):
    with Writer(cluster) as writer:
        in_sync, leader = cluster.in_sync()
        follower = cluster.broker(next(number for number in in_sync if number != leader))
        follower.kill()
        writer.wait_for_progress()
        follower.start()
        cluster.wait_in_sync()
    writer.check()


def test_one_broker_acknowledges_nothing(cluster):
    """With one broker of three, no record is acknowledged. With two, records are acknowledged again, and none is lost."""
    with Writer(cluster) as writer:
        first, second, third = cluster.brokers
        first.kill()
        second.kill()
        # The writer may still receive one answer that the third broker had sent before.
        acknowledged = len(writer.acknowledged)
        time.sleep(3)
        assert len(writer.acknowledged) <= acknowledged + 1
        first.start()
        writer.wait_for_progress()
        second.start()
        cluster.wait_in_sync()
    writer.check()


def test_a_paused_leader(cluster):
    """The paused broker does not answer, but its connections stay open. When it continues, another broker leads."""
    with Writer(cluster) as writer:
        leader = cluster.leader()
        leader.pause()
        writer.wait_for_progress()
        leader.resume()
        cluster.wait_in_sync()
    writer.check()


def test_a_leader_without_network(cluster, network):
    with Writer(cluster) as writer:
        network.isolate(cluster.leader().name)
        writer.wait_for_progress()
        assert len(cluster.in_sync()[0]) == 2
        network.heal()
        cluster.wait_in_sync()
    writer.check()


def test_a_link_that_fails_in_one_direction(cluster, network):
    """A follower that does not receive the answers of the leader leaves the in-sync set, and returns when the link works again."""
    with Writer(cluster) as writer:
        in_sync, leader = cluster.in_sync()
        follower = next(number for number in in_sync if number != leader)
        network.cut(f"broker-{leader}", f"broker-{follower}", one_way=True)
        cluster.wait_in_sync(2)
        writer.wait_for_progress()
        network.heal()
        cluster.wait_in_sync()
    writer.check()


def test_a_client_that_does_not_reach_the_leader(cluster, network):
    """The brokers see no fault, so they elect no other leader. The client must wait, and no record is lost."""
    with Writer(cluster) as writer:
        leader = cluster.leader()
        network.cut(leader.name, "client", one_way=True)
        acknowledged = len(writer.acknowledged)
        time.sleep(2)
        assert len(writer.acknowledged) <= acknowledged + 1
        assert cluster.leader() is leader
        network.heal()
        writer.wait_for_progress()
    writer.check()


def test_a_delayed_link(cluster, network):
    """Checks that no packet arrives before its delay has passed."""
    broker = cluster.broker(1)

    def round_trip_s():
        begun = time.monotonic()
        with network.inside("client"), socket.create_connection((broker.host, broker.ports["client"]), timeout=30):
            return time.monotonic() - begun

    network.delay("client", broker.name, 100)
    assert round_trip_s() >= 0.2
    network.delay("client", broker.name, 0)
    network.delay(broker.name, "client", 100, one_way=True)
    assert 0.1 <= round_trip_s()
    with Writer(cluster) as writer:
        network.delay("broker-1", "broker-2", 20, jitter_ms=10, loss_percent=5)
        writer.wait_for_progress()
        network.heal()
    writer.check()
    assert min(round_trip_s() for _ in range(5)) < 0.1, "the delay did not end"
