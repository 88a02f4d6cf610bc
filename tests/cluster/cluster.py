"""A cluster of brokers and Tallys: starts them in the right order, makes the topic, and lets a test inject faults.

with Cluster(directory) as cluster:
    cluster.start()
    producer = cluster.producer()
    cluster.broker(1).kill()
"""

import json
import pathlib
import random
import shutil
import socket

import network as networks
from brokers import MESSAGE_BYTES_MAX, TOPIC_SETTINGS, Broker, new_cluster_id
from confluent_kafka import Consumer, KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from disks import Disk
from nodes import wait_until
from security import Access
from tallys import Tally

TOPIC = "ledger"
# A topic with the settings of a ledger's topic. `start` writes to it to find out whether the brokers work: the ledger's own topic
# must stay empty.
PROBE_TOPIC = "probe"
# A broker that sends nothing to the controller for `session_ms` loses the leadership of its partitions. A follower that has not
# caught up for `lag_ms` leaves the in-sync set. Until then, a follower that does not answer stops all acknowledgements.
TIMEOUTS = {"session_ms": 1000, "lag_ms": 3000}
START_TIMEOUT_S = 90
# The range of the listening ports. The kernel uses higher ports for outgoing connections.
PORTS = range(20000, 32000)


class Cluster:
    """Three brokers, and `tallys` Tallys, in `directory`.

    `network`: true gives each node a network namespace, so that `cluster.network` can cut and delay its links; needs root.
    `disks`: true gives each node a disk (a file system in an image file), so that `cut_power` can cut its power; needs root.
    `sasl`, `tls`: how clients authenticate (see `security.Access`).
    `tally_settings`: further settings of the Tallys, by their keys.
    `topic_settings`: settings of the ledger's topic that replace the correct settings: `{"flush_messages": "1000"}`.
    A cluster that is started again in the same directory has the same data and addresses.
    """

    def __init__(
        self,
        directory,
        brokers=3,
        tallys=0,
        network=False,
        sasl=None,
        tls=False,
        timeouts=None,
        binary=None,
        disks=False,
        tally_settings=None,
        topic_settings=None,
    ):
        self.directory = pathlib.Path(directory).absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.topic_settings = topic_settings or {}
        self.names = [f"broker-{number + 1}" for number in range(brokers)] + [f"tally-{number + 1}" for number in range(tallys)]
        self.network = networks.Network([*self.names, "client"], self.directory) if network else None
        self.hosts = {name: networks.Network.address(name) if network else "127.0.0.1" for name in self.names}
        self.plan = self._load_plan()
        self.access = Access(self.directory / "access", self.hosts.values(), sasl, tls)
        voters = ",".join(
            f"{number + 1}@{self.hosts[name]}:{self.ports(name)['controller']}"
            for number, name in enumerate(self.names[:brokers])
        )
        common = {
            "voters": voters,
            "access": self.access,
            "cluster_id": self.plan["cluster_id"],
            "timeouts": TIMEOUTS | (timeouts or {}),
        }
        self.brokers = [
            Broker(n + 1, self.hosts[name], self.ports(name), self.directory / name, network=self.network, **common)
            for n, name in enumerate(self.names[:brokers])
        ]
        common = {"binary": binary, "brokers": [b.address for b in self.brokers], "topic": TOPIC, "access": self.access}
        common["more"] = tally_settings
        common["peers"] = [f"{self.hosts[name]}:{self.ports(name)['grpc']}" for name in self.names[brokers:]]
        self.tallys = [
            Tally(n + 1, self.hosts[name], self.ports(name), self.directory / name, network=self.network, **common)
            for n, name in enumerate(self.names[brokers:])
        ]

        self.disks = {}
        if disks:
            for node in self.nodes:
                self.disks[node.name] = Disk(node.data)

    def _load_plan(self):
        """Returns the names and ports of the nodes. A file stores them, so that they stay the same when the cluster starts again."""
        path = self.directory / "plan.json"
        plan = json.loads(path.read_text()) if path.exists() else {"cluster_id": new_cluster_id(), "ports": {}}
        taken = {port for ports in plan["ports"].values() for port in ports.values()}
        for name in self.names:
            kinds = ("client", "internal", "controller") if name.startswith("broker") else ("grpc", "admin")
            plan["ports"].setdefault(name, {kind: free_port(taken) for kind in kinds})
        path.write_text(json.dumps(plan, indent=2))
        return plan

    def ports(self, name):
        return self.plan["ports"][name]

    @property
    def nodes(self):
        return [*self.brokers, *self.tallys]

    def node(self, name):
        found = [node for node in self.nodes if node.name == name]
        assert found, f"there is no node {name}; the nodes are {', '.join(self.names)}"
        return found[0]

    def broker(self, number):
        return self.node(f"broker-{number}")

    def tally(self, number):
        return self.node(f"tally-{number}")

    @property
    def bootstrap(self):
        """The addresses of the brokers in the format of Kafka's setting `bootstrap.servers`."""
        return ",".join(broker.address for broker in self.brokers)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def start(self):
        """Starts the brokers, and waits until they acknowledge a record. Starts the Tallys, and waits until they are ready."""
        self.start_brokers()
        self.start_tallys()

    def start_tallys(self):
        """Starts the Tallys that do not run, and waits until all Tallys are ready. Makes the ledger if there is none.

        If no Tally ran, also waits until one of them leads: before that, every call gets NOT_LEADER.
        """
        some_ran = any(tally.running for tally in self.tallys)
        last_term = max((tally.last_term_led() for tally in self.tallys), default=0)
        if self.tallys and not any((tally.data / "FORMAT").exists() for tally in self.tallys):
            self.tallys[0].initialize()
        for tally in self.tallys:
            if not tally.running:
                tally.start()
        for tally in self.tallys:
            wait_until(tally.is_ready, f"{tally.name} is not ready:\n{tally.last_output()}", START_TIMEOUT_S)
        if self.tallys and not some_ran:
            wait_until(lambda: max(map(Tally.last_term_led, self.tallys)) > last_term, "nobody leads", START_TIMEOUT_S)

    def start_brokers(self):
        formats = [(broker, broker.format()) for broker in self.brokers]
        for broker, process in formats:
            assert process is None or process.wait() == 0, f"{broker.name} was not formatted:\n{broker.last_output()}"
        for broker in self.brokers:
            broker.start()
        self.create_topic(PROBE_TOPIC)
        self.create_topic(TOPIC, **self.topic_settings)
        self.wait_writable()

    def close(self):
        """Kills all processes at once and removes the network. The files stay."""
        for node in self.nodes:
            node.kill()
        for disk in self.disks.values():
            disk.close()
        if self.network:
            self.network.close()

    def cut_power(self, *nodes):
        """Cuts the power of these nodes at the same time: they lose all data that they have not synced. They can start again."""
        for node in nodes:
            self.disks[node.name].cut()
        for node in nodes:
            node.kill()
        for node in nodes:
            self.disks[node.name].mount_again()

    def stop(self):
        """Stops the Tallys by SIGTERM, and then kills the brokers.

        A broker that gets SIGTERM waits for the other controllers, possibly for minutes if they stop, too. A kill loses nothing,
        because acknowledged records are on disk (`flush.messages`).
        """
        for tally in self.tallys:
            if tally.running:
                tally.process.terminate()
        for tally in self.tallys:
            tally.stop()
        for broker in self.brokers:
            broker.kill()

    def remove(self):
        self.close()
        shutil.rmtree(self.directory)

    # ----- clients. They run in the namespace `client` if there is a network.

    def client_settings(self, **settings):
        """Returns settings of librdkafka for a client that soon notices when a broker fails."""
        return {
            "bootstrap.servers": self.bootstrap,
            "socket.connection.setup.timeout.ms": 2000,
            "socket.timeout.ms": 2000,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 200,
            "topic.metadata.refresh.fast.interval.ms": 100,
            "log_level": 0,
            **self.access.client_settings(),
            **dotted(settings),
        }

    def _in_network(self, make):
        if not self.network:
            return make()
        with self.network.inside("client"):
            return make()

    def producer(self, **settings):
        """Returns a producer: acks=all, idempotent, one record per request."""
        defaults = {"acks": "all", "enable_idempotence": True, "linger_ms": 0, "retry_backoff_ms": 50, "request_timeout_ms": 2000}
        defaults |= {"message_timeout_ms": 30000, "message_max_bytes": MESSAGE_BYTES_MAX}
        return self._in_network(lambda: Producer(self.client_settings(**(defaults | settings))))

    def admin(self):
        return self._in_network(lambda: AdminClient(self.client_settings()))

    def read(self, topic=TOPIC, at_least=0, timeout_s=15):
        """Returns all records of the topic as pairs: offset, value.

        Reads up to the end that a broker reports, but at least the records below the offset `at_least`: a broker that was cut off
        and does not know yet that another broker leads reports an end that is too low.
        """
        settings = {"group_id": "tests", "enable_auto_commit": False, "auto_offset_reset": "earliest", "check_crcs": True}
        consumer = self._in_network(lambda: Consumer(self.client_settings(**settings)))
        try:
            consumer.assign([TopicPartition(topic, 0, 0)])
            _, end = wait_until(lambda: offsets(consumer, topic), f"the end of {topic} is unknown", timeout_s)
            found = []
            while len(found) < max(end, at_least):
                record = consumer.poll(timeout_s)
                if record is None:
                    assert len(found) >= end, f"{len(found)} of {end} records of {topic} after {timeout_s} s"
                    break
                if record.error() is None:
                    found.append((record.offset(), record.value()))
            return found
        finally:
            consumer.close()

    # ----- the Tallys

    def leading_tally(self):
        """Returns the Tally that became leader last; None if there was no leader yet."""
        last = max(self.tallys, key=Tally.last_term_led)
        return last if last.led_term else None

    def wait_new_leader(self, term, timeout_s=30):
        """Waits until a Tally leads with a higher term, and returns it."""
        wait_until(lambda: self.leading_tally().led_term > term, f"nobody leads after term {term}", timeout_s, every_s=0.01)
        return self.leading_tally()

    # ----- the topic

    def create_topic(self, topic=TOPIC, timeout_s=START_TIMEOUT_S, **settings):
        """Makes a topic with one partition on all brokers, with the settings of a ledger. An existing topic stays.

        `settings` replace some of the settings: `flush_messages="1000"`.
        """
        admin = self.admin()
        config = TOPIC_SETTINGS | dotted(settings)

        def create():
            for broker in self.brokers:
                assert broker.process is None or broker.running, f"{broker.name} ended:\n{broker.last_output()}"
            new = NewTopic(topic, num_partitions=1, replication_factor=len(self.brokers), config=config)
            try:
                admin.create_topics([new], operation_timeout=5, request_timeout=5)[topic].result()
                return True
            except KafkaException as error:
                return error.args[0].name() == "TOPIC_ALREADY_EXISTS"

        wait_until(create, f"the topic {topic} was not created", timeout_s)

    def delete_topic(self, topic=TOPIC):
        admin = self.admin()
        admin.delete_topics([topic], operation_timeout=5)[topic].result()
        wait_until(lambda: topic not in admin.list_topics(timeout=5).topics, f"{topic} was not deleted")

    def in_sync(self, topic=TOPIC):
        """Returns the numbers of the brokers in the in-sync set, and the number of the leader (None: there is no leader)."""
        # The client must live until the answer arrives.
        admin = self.admin()
        described = admin.describe_topics(TopicCollection([topic]), request_timeout=5)[topic].result()
        [partition] = described.partitions
        return sorted(node.id for node in partition.isr), partition.leader.id if partition.leader else None

    def leader(self, topic=TOPIC):
        """Returns the broker that leads the topic."""
        return self.broker(wait_until(lambda: self._try(lambda: self.in_sync(topic)[1]), f"{topic} has no leader"))

    def wait_in_sync(self, count=None, topic=TOPIC, timeout_s=START_TIMEOUT_S):
        """Waits until the in-sync set has exactly `count` brokers, or all brokers if there is no `count`."""
        count = count or len(self.brokers)
        wait_until(
            lambda: self._try(lambda: len(self.in_sync(topic)[0]) == count),
            f"{topic} has not {count} in-sync replicas",
            timeout_s,
        )

    @staticmethod
    def _try(action):
        try:
            return action()
        except KafkaException:
            return None

    def wait_writable(self, topic=PROBE_TOPIC, timeout_s=START_TIMEOUT_S):
        """Waits until a record is acknowledged by all in-sync replicas."""
        outcome = []
        producer = self.producer(message_timeout_ms=int(timeout_s * 1000))
        producer.produce(topic, b"probe", on_delivery=lambda error, _: outcome.append(error))
        producer.flush(timeout_s + 1)
        assert outcome == [None], f"{topic} is not writable after {timeout_s} s: {outcome}"


def dotted(settings):
    """Returns settings with Kafka's names, which have dots: `flush_messages` becomes `flush.messages`."""
    return {key.replace("_", "."): value for key, value in settings.items()}


def offsets(consumer, topic):
    try:
        return consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=2)
    except KafkaException:
        return None


def free_port(taken):
    """Returns a free port that is not in the set `taken`, and adds it."""
    for _ in range(1000):
        port = random.choice(PORTS)
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in taken:
            taken.add(port)
            return port
    raise AssertionError("no port is free")
