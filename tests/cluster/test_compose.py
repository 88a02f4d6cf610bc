"""Checks that examples/compose.yaml has the settings of the tested cluster. Runs no containers."""

import pathlib

import yaml
from brokers import COMMON, TOPIC_SETTINGS
from cluster import TIMEOUTS, TOPIC, Cluster

COMPOSE = yaml.safe_load((pathlib.Path(__file__).resolve().parents[2] / "examples/compose.yaml").read_text())
# Settings that are not compared: they only make the tested brokers smaller or faster to start, or are defaults of Kafka.
OMITTED = {
    "controlled.shutdown.enable",
    "group.initial.rebalance.delay.ms",
    "num.io.threads",
    "num.network.threads",
    "num.recovery.threads.per.data.dir",
    "offsets.topic.num.partitions",
    "replica.fetch.response.max.bytes",
    "socket.request.max.bytes",
    "transaction.state.log.num.partitions",
}


def variables(service):
    return COMPOSE["services"][service]["environment"]


def test_the_brokers_have_the_tested_settings():
    expected = dict(line.split("=", 1) for line in COMMON.splitlines())
    expected |= {"broker.session.timeout.ms": str(TIMEOUTS["session_ms"]), "replica.lag.time.max.ms": str(TIMEOUTS["lag_ms"])}
    for number in (1, 2, 3):
        found = variables(f"broker-{number}")
        for key in expected.keys() - OMITTED:
            assert found[f"KAFKA_{key.upper().replace('.', '_')}"] == expected[key], key
        assert found["KAFKA_NODE_ID"] == str(number)
        assert f"CLIENT://broker-{number}:" in found["KAFKA_ADVERTISED_LISTENERS"]


def test_the_topic_has_the_tested_settings():
    command = COMPOSE["services"]["topic"]["command"]
    found = dict(word.removeprefix("--config=").split("=", 1) for word in command if word.startswith("--config="))
    assert found == TOPIC_SETTINGS
    assert {f"--topic={TOPIC}", "--partitions=1", "--replication-factor=3"} <= set(command)


def test_the_tallys_have_the_settings_of_the_tested_ones(tmp_path):
    # This cluster is never started. The test needs only its settings.
    tally = Cluster(tmp_path, tallys=3).tally(1)
    _, expected = tally.command()
    addresses = set()
    for number in (1, 2, 3):
        found = variables(f"tally-{number}")
        assert found.keys() == expected.keys() | {"TALLY__SECURITY__ALLOW_INSECURE"}
        own = found["TALLY__STORE__REPLICATED__ADVERTISE"]
        addresses.add(own)
        assert own == f"http://tally-{number}:50051"
        assert found["TALLY__STORE__REPLICATED__PEERS"].split(",") == [f"http://tally-{n}:50051" for n in (1, 2, 3)]
    assert len(addresses) == 3
