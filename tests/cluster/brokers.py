"""The brokers: Kafka in KRaft mode. Each process is both a broker and a controller.

Needs the environment variable KAFKA: the directory with the jars, which `source scripts/tools && kafka` prints.
"""

import base64
import os
import pathlib
import subprocess
import uuid

from nodes import Node

JARS = os.environ.get("KAFKA", "")
# A heap of 400 MB and the simplest collector and compiler, so that three brokers and the tests fit on a small machine.
JVM = ["java", "-Xms400m", "-Xmx400m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8"]
# The largest batch of records that a broker accepts, in bytes. It bounds the requests with which a Tally writes blocks.
MESSAGE_BYTES_MAX = 8 << 20
# The settings of a topic that holds a ledger: an acknowledged record is synced to disk on at least two brokers, and never deleted.
TOPIC_SETTINGS = {
    "min.insync.replicas": "2",
    "flush.messages": "1",
    "unclean.leader.election.enable": "false",
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "max.message.bytes": str(MESSAGE_BYTES_MAX),
}
# The settings that all brokers share. `Broker.properties` adds names, addresses, directories and access.
COMMON = f"""\
process.roles=broker,controller
controller.listener.names=CONTROLLER
inter.broker.listener.name=INTERNAL
auto.create.topics.enable=false
min.insync.replicas=2
default.replication.factor=3
offsets.topic.replication.factor=3
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
transaction.state.log.num.partitions=1
unclean.leader.election.enable=false
message.max.bytes={MESSAGE_BYTES_MAX}
replica.fetch.max.bytes={MESSAGE_BYTES_MAX}
replica.fetch.response.max.bytes={2 * MESSAGE_BYTES_MAX}
socket.request.max.bytes={4 * MESSAGE_BYTES_MAX}
log.flush.interval.messages=1
log.retention.ms=-1
log.retention.bytes=-1
log.cleaner.enable=false
num.network.threads=2
num.io.threads=4
num.recovery.threads.per.data.dir=1
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=200
controller.quorum.election.timeout.ms=500
controller.quorum.fetch.timeout.ms=1000
controlled.shutdown.enable=true
"""
LOG_SETTINGS = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %m (%c{1})%n
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
"""


class Broker(Node):
    """One broker. `access` (`security.Access`) says how clients authenticate. Brokers connect to each other without TLS or password."""

    def __init__(self, number, host, ports, directory, voters, access, cluster_id, timeouts, network=None):
        super().__init__(f"broker-{number}", host, directory, network)
        self.number, self.ports, self.voters, self.access = number, ports, voters, access
        self.cluster_id, self.timeouts = cluster_id, timeouts

    @property
    def address(self):
        """The address for clients."""
        return f"{self.host}:{self.ports['client']}"

    @property
    def data(self):
        """The directory in which the broker stores the records."""
        return self.directory / "data"

    def properties(self):
        listeners = {name: f"{name}://{self.host}:{self.ports[name.lower()]}" for name in ("CLIENT", "INTERNAL", "CONTROLLER")}
        own = {
            "node.id": self.number,
            "controller.quorum.voters": self.voters,
            "listeners": ",".join(listeners.values()),
            "advertised.listeners": f"{listeners['CLIENT']},{listeners['INTERNAL']}",
            "listener.security.protocol.map": f"CLIENT:{self.access.protocol},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": self.data,
            "broker.session.timeout.ms": self.timeouts["session_ms"],
            "replica.lag.time.max.ms": self.timeouts["lag_ms"],
            **self.access.broker_properties(),
        }
        return COMMON + "".join(f"{key}={value}\n" for key, value in own.items())

    def format(self):
        """Starts a process that formats the directory, and returns the process; None if the directory is formatted already."""
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "server.properties").write_text(self.properties())
        (self.directory / "log4j2.properties").write_text(LOG_SETTINGS)
        if (self.data / "meta.properties").exists():
            return None
        arguments = ["format", "--cluster-id", self.cluster_id, "--config", str(self.directory / "server.properties")]
        arguments += self.access.format_arguments()
        with open(self.output, "ab") as output:
            return subprocess.Popen(java("kafka.tools.StorageTool", *arguments), stdout=output, stderr=subprocess.STDOUT)

    def command(self):
        settings = f"-Dlog4j2.configurationFile={self.directory / 'log4j2.properties'}"
        return java("kafka.Kafka", str(self.directory / "server.properties"), jvm=[*JVM, settings]), {}


def java(program, *arguments, jvm=JVM):
    """Returns the command that runs a class of Kafka."""
    assert JARS, "the variable KAFKA must name the directory with the jars of Kafka: `source scripts/tools && kafka`"
    return [*jvm, "-cp", str(pathlib.Path(JARS) / "*"), program, *arguments]


def new_cluster_id():
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
