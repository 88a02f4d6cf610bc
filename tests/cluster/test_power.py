"""A power loss of all brokers at the same time, with the control experiment."""

import os
import time

import disks
import pytest
from cluster import TOPIC, Cluster
from writer import Writer

# By default, Kafka leaves it to the operating system when it writes records to disk.
UNSAFE = {"flush_messages": "9223372036854775807"}


def test_only_synced_records_survive_a_power_loss(tmp_path):
    """The topic of the ledger loses nothing. A topic without `flush.messages=1` does, so the test would find a loss."""
    why = disks.available()
    if why:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no disks of its own: {why}")
    with Cluster(tmp_path, disks=True) as cluster:
        cluster.start()
        cluster.create_topic("unsafe", **UNSAFE)
        cluster.wait_writable("unsafe")
        with Writer(cluster, "unsafe") as unsafe, Writer(cluster, TOPIC) as safe:
            time.sleep(1)
            cluster.cut_power(*cluster.brokers)
            cluster.start_brokers()
            cluster.wait_in_sync(topic="unsafe")
            safe.wait_for_progress()
            unsafe.wait_for_progress()
        safe.check()
        with pytest.raises(AssertionError, match="is not at offset"):
            unsafe.check()
