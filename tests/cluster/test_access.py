"""Checks that clients and Tallys can use the brokers with TLS and each kind of password, and that others are rejected."""

import security
from checker import check_all
from cluster import TOPIC, Cluster
from confluent_kafka import Consumer, KafkaException
from loads import Load
from writer import Writer


def is_refused(cluster, **settings):
    consumer = Consumer(cluster.client_settings(group_id="tests", socket_timeout_ms=2000) | settings)
    try:
        consumer.list_topics(TOPIC, timeout=3)
    except KafkaException:
        return True
    finally:
        consumer.close()
    return False


def test_tls_and_passwords(tmp_path, tally_binary):
    """The writers, too, write their records to the topic of the ledger. Tally must ignore these records."""
    with Cluster(tmp_path, tallys=3, sasl="scram-512", tls=True, binary=tally_binary) as cluster:
        cluster.start()
        with Load(cluster, "access") as load:
            load.wait_for_progress()
        for sasl in security.MECHANISMS:
            cluster.access.sasl = sasl
            with Writer(cluster) as writer:
                pass
            writer.check()
            assert not is_refused(cluster)
            assert is_refused(cluster, **{"sasl.password": "wrong"})
        assert is_refused(cluster, **{"security.protocol": "PLAINTEXT"})
        other = security.Access(tmp_path / "other", cluster.hosts.values(), tls=True)
        assert is_refused(cluster, **{"ssl.ca.location": str(other.ca)})
        with Load(cluster, "access-2") as again:
            again.wait_for_progress()
        cluster.stop()
        check_all(cluster.tallys, [load.history(), again.history()], tmp_path)
