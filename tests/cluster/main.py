"""The command scripts/cluster. `up` keeps the cluster running and listens on a socket; the other commands talk to it."""

import argparse
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import sys
import time

import disks
import network as networks
from brokers import java
from cluster import TOPIC, Cluster

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEFAULT_DIRECTORY = "target/cluster"
# Timeout of a command, in seconds. It is long, because `restart` waits for the clean stop of a broker.
COMMAND_TIMEOUT_S = 120
TOOLS = {
    "topics": "org.apache.kafka.tools.TopicCommand",
    "configs": "kafka.admin.ConfigCommand",
    "console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "dump-log": "org.apache.kafka.tools.DumpLogSegments",
    "metadata-quorum": "org.apache.kafka.tools.MetadataQuorumCommand",
    "producer-perf-test": "org.apache.kafka.tools.ProducerPerformance",
    "verifiable-producer": "org.apache.kafka.tools.VerifiableProducer",
}
EPILOG = f"""\
NODE is broker-1 to broker-3, or tally-1 to tally-3; just a number means a broker. A link of --network also has the end `client`.
  scripts/cluster up --brokers-only           # in one terminal, until Ctrl-C
  scripts/cluster kill 2                      # in another one: SIGKILL to broker-2
  scripts/cluster start 2
  scripts/cluster up --network --detach       # each node in a network namespace, in the background
  scripts/cluster cut broker-1 broker-2       # drops the packets between two nodes
  scripts/cluster delay tally-1 broker-1 20   # adds 20 ms in each direction
  scripts/cluster exec client curl ...        # runs a command in the namespace of a node
  scripts/cluster tool topics --describe      # a tool of Kafka: {", ".join(TOOLS)}, or a class
  scripts/cluster down
"""


def arguments():
    parser = argparse.ArgumentParser(
        prog="scripts/cluster",
        description="Runs three brokers (Kafka) and three Tallys on this machine.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG,
    )
    parser.add_argument("--directory", default=DEFAULT_DIRECTORY, help="the files of the cluster; default: %(default)s")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="starts the cluster; stops it after Ctrl-C or SIGTERM")
    up.add_argument("--brokers-only", action="store_true", help="starts no Tally")
    up.add_argument("--detach", action="store_true", help="returns when the cluster is ready; `down` stops it")
    up.add_argument("--fresh", action="store_true", help="deletes the data of an earlier run first")
    up.add_argument("--network", action="store_true", help="gives each node a network namespace, for cut and delay")
    up.add_argument("--disks", action="store_true", help="gives each node a file system of its own, for cut-power; needs root")
    up.add_argument("--sasl", choices=["plain", "scram-256", "scram-512"], help="clients must have a password")
    up.add_argument("--tls", action="store_true", help="connections of clients are encrypted")
    up.add_argument("--session-ms", type=int, default=1000, help="broker.session.timeout.ms; default: %(default)s")
    up.add_argument("--lag-ms", type=int, default=3000, help="replica.lag.time.max.ms; default: %(default)s")
    commands.add_parser("down", help="stops the cluster; the data stay")
    commands.add_parser("status", help="lists the nodes, with their addresses, memory and logs").add_argument(
        "--json", action="store_true"
    )
    commands.add_parser("env", help="prints shell variables with the addresses")
    for name, text in (
        ("start", "starts a node"),
        ("stop", "stops a node by SIGTERM"),
        ("kill", "kills a node by SIGKILL"),
        ("restart", "stops and starts a node"),
        ("pause", "stops a node by SIGSTOP; its connections stay open"),
        ("resume", "ends a pause"),
    ):
        commands.add_parser(name, help=text).add_argument("node", metavar="NODE")
    cut = commands.add_parser("cut", help="drops the packets between two nodes")
    delay = commands.add_parser("delay", help="delays the packets between two nodes")
    for link in (cut, delay):
        link.add_argument("sender", metavar="NODE")
        link.add_argument("receiver", metavar="NODE")
        link.add_argument("--one-way", action="store_true", help="only from the first node to the second")
    delay.add_argument("milliseconds", type=float)
    delay.add_argument("--jitter-ms", type=float, default=0)
    delay.add_argument("--loss-percent", type=float, default=0)
    commands.add_parser("isolate", help="drops the packets between a node and all others").add_argument("node", metavar="NODE")
    commands.add_parser("heal", help="ends all cuts and delays")
    power = commands.add_parser("cut-power", help="kills nodes, and loses what they have not synced")
    power.add_argument("nodes", metavar="NODE", nargs="+")
    execute = commands.add_parser("exec", help="runs a command in the network namespace of a node")
    execute.add_argument("node", metavar="NODE")
    execute.add_argument("program", nargs=argparse.REMAINDER)
    tool = commands.add_parser("tool", help="runs a tool of Kafka")
    tool.add_argument("name")
    tool.add_argument("options", nargs=argparse.REMAINDER)
    return parser.parse_args()


def full_name(name):
    return f"broker-{name}" if name.isdigit() else name


class Control:
    """The socket on which `up` receives the other commands."""

    def __init__(self, directory):
        # The path of a socket has at most 107 bytes, so this path is relative to the directory.
        self.directory, self.name = pathlib.Path(directory), "control"

    def _in_directory(self, action):
        before = os.getcwd()
        os.chdir(self.directory)
        try:
            return action()
        finally:
            os.chdir(before)

    def listen(self):
        self._in_directory(lambda: pathlib.Path(self.name).unlink(missing_ok=True))
        self.socket = socket.socket(socket.AF_UNIX)
        self._in_directory(lambda: self.socket.bind(self.name))
        self.socket.listen(8)

    def close(self):
        self.socket.close()
        self._in_directory(lambda: pathlib.Path(self.name).unlink(missing_ok=True))

    def answer_one(self, act):
        """Waits up to half a second for a command, and answers it."""
        if not select.select([self.socket], [], [], 0.5)[0]:
            return
        connection, _ = self.socket.accept()
        with connection, connection.makefile("rw") as lines:
            try:
                answer = {"answer": act(json.loads(lines.readline()))}
            except (AssertionError, OSError) as error:
                answer = {"error": str(error)}
            try:
                print(json.dumps(answer), file=lines, flush=True)
            except OSError:
                pass

    def ask(self, command, timeout_s=COMMAND_TIMEOUT_S):
        """Sends a command. Raises OSError if no cluster runs."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_s)
            self._in_directory(lambda: connection.connect(self.name))
            with connection.makefile("rw") as lines:
                print(json.dumps(command), file=lines, flush=True)
                answer = json.loads(lines.readline())
        if "error" in answer:
            sys.exit(f"scripts/cluster: {answer['error']}")
        return answer["answer"]


class Supervisor:
    """Runs the cluster of `up`."""

    def __init__(self, options):
        self.stopping = False
        tallys = 0 if options.brokers_only else 3
        timeouts = {"session_ms": options.session_ms, "lag_ms": options.lag_ms}
        self.cluster = Cluster(
            options.directory,
            tallys=tallys,
            network=options.network,
            disks=options.disks,
            sasl=options.sasl,
            tls=options.tls,
            timeouts=timeouts,
            binary=os.environ.get("TALLY_BINARY"),
        )

    def run(self, control):
        def stop(*_):
            # A second Ctrl-C ends this process at once, and the kernel then kills the nodes.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            self.stopping = True

        # A SIGTERM during the start raises SystemExit, so that the block `finally` runs.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        begun = time.monotonic()
        try:
            self.cluster.start()
            control.listen()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, stop)
            print(f"ready after {time.monotonic() - begun:.1f} s; Ctrl-C stops the cluster", flush=True)
            print(report(self.status()), flush=True)
            while not self.stopping:
                control.answer_one(self.act)
            control.close()
            self.cluster.stop()
        finally:
            self.cluster.close()

    def act(self, command):
        name = command["command"]
        network = self.cluster.network
        if name == "status":
            return self.status()
        if name == "down":
            self.stopping = True
            return None
        if name == "cut-power":
            assert self.cluster.disks, "the nodes have no disks of their own; start the cluster with `up --disks`"
            return self.cluster.cut_power(*(self.cluster.node(full_name(node)) for node in command["nodes"]))
        if name in ("cut", "delay", "isolate", "heal", "exec"):
            assert network, "the cluster has no network of its own; start it with `up --network`"
        if name in ("cut", "delay"):
            ends = [full_name(command[end]) for end in ("sender", "receiver")]
            for end in ends:
                assert end in network.names, f"there is no node {end}; the nodes are {', '.join(network.names)}"
            if name == "cut":
                return network.cut(*ends, one_way=command["one_way"])
            return network.delay(
                *ends, command["milliseconds"], command["jitter_ms"], command["loss_percent"], one_way=command["one_way"]
            )
        if name == "isolate":
            return network.isolate(self.cluster.node(full_name(command["node"])).name)
        if name == "heal":
            return network.heal()
        if name == "exec":
            return [*networks.from_outside(), *network.enter(full_name(command["node"]))]
        return getattr(self.cluster.node(full_name(command["node"])), name)() and None

    def status(self):
        cluster = self.cluster
        nodes = [
            {
                "name": node.name,
                "address": node.address,
                "state": node.state,
                "pid": node.pid,
                "memory_mb": node.memory_mb(),
                "log": str(node.output),
            }
            for node in cluster.nodes
        ]
        access = {
            "protocol": cluster.access.protocol,
            "mechanism": cluster.access.mechanism,
            "directory": str(cluster.access.directory),
        }
        return {
            "pid": os.getpid(),
            "bootstrap": cluster.bootstrap,
            "topic": TOPIC,
            "network": bool(cluster.network),
            "access": access,
            "nodes": nodes,
        }


def report(status):
    lines = [f"{'node':<10} {'state':<8} {'address':<22} {'pid':>7} {'MB':>5}  log"]
    for node in status["nodes"]:
        lines.append("{name:<10} {state:<8} {address:<22} {pid!s:>7} {memory_mb:>5}  {log}".format(**node))
    access = status["access"]
    if access["protocol"] != "PLAINTEXT":
        lines.append(
            f"clients need {access['protocol']} {access['mechanism'] or ''}: certificates and password in {access['directory']}"
        )
    return "\n".join(lines)


def up(options, control):
    if options.network:
        networks.become_root(sys.argv)
        why = networks.available()
        if why:
            sys.exit(f"scripts/cluster: no network namespaces here: {why}")
    if options.disks and disks.available():
        sys.exit(f"scripts/cluster: no disks of their own here: {disks.available()}")
    directory = pathlib.Path(options.directory)
    try:
        control.ask({"command": "status"})
    except OSError:
        pass
    else:
        sys.exit(f"scripts/cluster: a cluster already runs in {directory}; `scripts/cluster down` stops it")
    if options.fresh and (directory / "plan.json").exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if options.detach:
        return detach(directory, control)
    Supervisor(options).run(control)


def detach(directory, control):
    """Runs the same command in the background, and waits until the cluster is ready."""
    command = [sys.executable, *(argument for argument in sys.argv if argument not in ("--detach", "--fresh"))]
    output = directory / "up.log"
    with open(output, "wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    while process.poll() is None:
        try:
            print(report(control.ask({"command": "status"})))
            return
        except OSError:
            time.sleep(0.2)
    sys.exit(f"scripts/cluster: the cluster did not start:\n{output.read_text()}")


def down(control):
    pid = control.ask({"command": "status"})["pid"]
    control.ask({"command": "down"})
    while pathlib.Path(f"/proc/{pid}").exists():
        time.sleep(0.1)


def tool(options, control):
    """Replaces this process by a Kafka tool, in the namespace `client` if there is a network."""
    status = control.ask({"command": "status"})
    prefix = control.ask({"command": "exec", "node": "client"}) if status["network"] else []
    if status["access"]["protocol"] != "PLAINTEXT":
        print("scripts/cluster: give the tool the access of a client with --command-config", file=sys.stderr)
    server = [] if options.name == "dump-log" else ["--bootstrap-server", status["bootstrap"]]
    jvm = ["java", "-XX:TieredStopAtLevel=1", "-Dlog4j2.level=error"]
    command = [*prefix, *java(TOOLS.get(options.name, options.name), *server, *options.options, jvm=jvm)]
    os.execvp(command[0], command)


def main():
    options = arguments()
    os.chdir(ROOT)
    control = Control(options.directory)
    if options.command == "up":
        return up(options, control)
    try:
        command = vars(options)
        if options.command == "status":
            status = control.ask(command)
            print(json.dumps(status, indent=2) if options.json else report(status))
        elif options.command == "env":
            status = control.ask({"command": "status"})
            print(f"export KAFKA_BROKERS={status['bootstrap']}")
            endpoints = ",".join(f"http://{node['address']}" for node in status["nodes"] if node["name"].startswith("tally"))
            if endpoints:
                print(f"export TALLY_ENDPOINT={endpoints}")
        elif options.command == "exec":
            prefix = control.ask(command)
            os.execvp(prefix[0], [*prefix, *options.program])
        elif options.command == "tool":
            tool(options, control)
        elif options.command == "down":
            down(control)
        else:
            control.ask(command)
    except (FileNotFoundError, ConnectionError):
        sys.exit(f"scripts/cluster: no cluster runs in {options.directory}; `scripts/cluster up` starts one")


if __name__ == "__main__":
    main()
