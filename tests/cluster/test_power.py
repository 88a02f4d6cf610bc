"""A power loss of all brokers at the same time. Control experiments show that the checks find lost records."""

import os
import shutil
import time

import disks
import pytest
from checker import Directory, check, check_all, check_directory
from cluster import TOPIC, Cluster
from loads import Load
from nodes import wait_until
from writer import Writer

# The default of Kafka: the operating system decides when records are written to disk.
UNSAFE = {"flush_messages": "9223372036854775807"}


# On a busy machine, the circuit breaker would stop the load.
SETTINGS = {"breaker.mode": "disabled"}


@pytest.fixture(autouse=True)
def _need_disks():
    why = disks.available()
    if why:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no disks of its own: {why}")


def test_only_synced_records_survive_a_power_loss(tmp_path):
    """The topic of the ledger loses nothing. A topic without `flush.messages=1` loses records, so this check can find a loss."""
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


def test_a_ledger_survives_a_power_loss(tmp_path, tally_binary):
    """All brokers and Tallys lose power at the same time, and all data that they have not synced. No acknowledged transaction is lost.

    Then two Tallys lose all their files, and build them again from the log alone.
    """
    with Cluster(tmp_path, tallys=3, disks=True, binary=tally_binary, tally_settings=SETTINGS) as cluster:
        cluster.start()
        with Load(cluster, "power") as load:
            for _ in range(2):
                time.sleep(1)
                cluster.cut_power(*cluster.nodes)
                cluster.start()
                load.wait_for_progress()
        cluster.stop()
        found = check_all(cluster.tallys, [load.history()], tmp_path)
        print(f"\n{found}")
        for tally in cluster.tallys[:2]:
            lose(tally)
        cluster.start()
        cluster.stop()
        check_all(cluster.tallys, [load.history()], tmp_path)


def test_a_log_that_lost_records_is_found(tmp_path, tally_binary):
    """The control experiment: the brokers do not sync the topic, but the Tallys sync their journals. After the power loss, the
    Tallys find that the log has lost blocks, and stop.

    A Tally that builds its directory again from this log lacks acknowledged transactions, and the check finds this. Then a new log
    is written from the directory of another Tally.
    """
    settings = SETTINGS | {"store.replicated.accept_unsafe_topic": "true"}
    with Cluster(
        tmp_path, tallys=3, disks=True, binary=tally_binary, tally_settings=settings, topic_settings=UNSAFE
    ) as cluster:
        cluster.start()
        load = Load(cluster, "unsafe")
        load.__enter__()
        time.sleep(1)
        # The records that the log contains now survive.
        for broker in cluster.brokers:
            cluster.disks[broker.name].sync()
        load.wait_for_progress()
        time.sleep(1)
        cluster.cut_power(*cluster.nodes)
        load.kill()
        cluster.start_brokers()
        for tally in cluster.tallys:
            tally.start()
        for tally in cluster.tallys:
            wait_until(lambda: "log contradicts" in tally.last_output(400), f"{tally.name} has not stopped")
            assert not tally.running or not tally.is_ready()
            tally.stop()
        history = load.history()
        check(history)
        # The directories still contain all acknowledged transactions.
        directories = [Directory(tally, tmp_path) for tally in cluster.tallys]
        blocks = {directory.name: int(directory.fact("blocks")) for directory in directories}
        for directory in directories:
            check_directory(directory, history)
        lost, other, best = sorted(cluster.tallys, key=lambda tally: blocks[tally.name])
        lose(lost)
        lost.start()
        wait_until(lost.is_ready, f"{lost.name} is not ready:\n{lost.last_output()}")
        lost.stop()
        with pytest.raises(AssertionError, match="the acknowledged .* has sequence None"):
            check_directory(Directory(lost, tmp_path), history)
        # The replicas continue with a new topic and the directory that has the most blocks.
        lose(lost)
        cluster.delete_topic()
        cluster.create_topic()
        best.run("replica", "republish")
        other.run("replica", "rejoin")
        cluster.start_tallys()
        with Load(cluster, "republished") as again:
            again.wait_for_progress()
        cluster.stop()
        check_all(cluster.tallys, [history, again.history()], tmp_path)


def lose(tally):
    """Removes all files of a stopped Tally."""
    for path in tally.data.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
