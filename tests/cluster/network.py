"""A network namespace for each node, so that a test can cut links and delay packets.

Each namespace has one address. A bridge in a further namespace connects the namespaces, and nothing connects them to the network of
the machine. Making namespaces needs root; for another user, the program runs in a user namespace (`become_root`).

To cut a link, an iptables rule in the namespace of the receiver drops the packets of the sender. The sender gets no error, as on a
broken network. To delay a link, a netfilter queue holds the packets, and `delay.py` releases them: not every kernel has `netem`.
"""

import contextlib
import ctypes
import os
import pathlib
import re
import subprocess
import sys
import threading

from delay import READY
from nodes import spawn, wait_until

# The addresses that RFC 2544 reserves for benchmarks of network devices. No machine on the Internet has such an address.
NETWORK = "198.18.0"
# The last part of the address of each node.
NUMBERS = {f"{kind}-{number}": base + number for kind, base in (("broker", 10), ("tally", 20)) for number in range(1, 10)}
NUMBERS["client"] = 99
CLONE_NEWNET = 0x40000000
DELAY = pathlib.Path(__file__).with_name("delay.py")


def available():
    """Returns the reason why this machine has no network namespaces; an empty text if it has them."""
    for program in ("ip", "iptables", "unshare"):
        if subprocess.run(["sh", "-c", f"command -v {program}"], stdout=subprocess.DEVNULL).returncode:
            return f"the program {program} is missing"
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    name = f"tally{os.getpid()}-trial"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return made.stderr.strip()
    tried = subprocess.run(
        ["ip", "netns", "exec", name, "iptables", "-A", "INPUT", "-j", "ACCEPT"], capture_output=True, text=True
    )
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return tried.stderr.strip() if tried.returncode else ""


def remove_left_behind():
    """Removes the namespaces of processes that were killed before they could remove them."""
    for line in run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        owner = re.match(r"tally([0-9]+)-", name)
        if owner and not pathlib.Path("/proc", owner[1]).exists():
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def become_root(arguments):
    """Runs this program again as root of a user namespace, with a separate /run. Does nothing if the user is root."""
    if os.geteuid() != 0:
        inside = 'mount -t tmpfs none /run && ip link set lo up && exec "$@"'
        command = [
            "unshare",
            "--user",
            "--map-root-user",
            "--net",
            "--mount",
            "sh",
            "-c",
            inside,
            "sh",
            sys.executable,
            *arguments,
        ]
        os.execvp("unshare", command)


def from_outside():
    """Returns the beginning of a command with which another process of the same user enters the namespaces of this process."""
    if pathlib.Path("/proc/self/uid_map").read_text().split()[1] == "0":
        return []
    return ["nsenter", "--target", str(os.getpid()), "--user", "--mount", "--preserve-credentials"]


class Network:
    """The namespaces of the nodes `names`. `close` removes them."""

    def __init__(self, names, directory):
        self.names, self.directory = list(names), pathlib.Path(directory)
        self.prefix = f"tally{os.getpid()}-"
        self.delays = {}
        self.made = []
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self):
        remove_left_behind()
        self.directory.mkdir(parents=True, exist_ok=True)
        switch = self._namespace("switch")
        run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", switch, "link", "set", "bridge", "up")
        for name in self.names:
            inner = self._namespace(name)
            run("ip", "-n", switch, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", inner)
            run("ip", "-n", switch, "link", "set", name, "master", "bridge", "up")
            run("ip", "-n", inner, "address", "add", f"{self.address(name)}/24", "dev", "eth0")
            run("ip", "-n", inner, "link", "set", "eth0", "up")
            run("ip", "-n", inner, "link", "set", "lo", "up")

    def _namespace(self, name):
        run("ip", "netns", "add", self.prefix + name)
        self.made.append(name)
        return self.prefix + name

    @staticmethod
    def address(name):
        return f"{NETWORK}.{NUMBERS[name]}"

    def enter(self, name):
        """Returns the beginning of a command that runs in the namespace of the node."""
        return ["ip", "netns", "exec", self.prefix + name]

    @contextlib.contextmanager
    def inside(self, name="client"):
        """Moves this thread, and the threads that it starts, to the namespace of the node. Sockets that they open stay there."""
        libc = ctypes.CDLL(None, use_errno=True)

        def move(file):
            if libc.setns(file.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns to {name}")

        own = f"/proc/self/task/{threading.get_native_id()}/ns/net"
        with open(own) as before, open(f"/run/netns/{self.prefix}{name}") as there:
            move(there)
            try:
                yield
            finally:
                move(before)

    def cut(self, sender, receiver, one_way=False):
        """Drops the packets from one node to another. Without `one_way`, drops the packets in the other direction, too."""
        self._rule(receiver, "-A", "INPUT", "-s", self.address(sender), "-j", "DROP")
        if not one_way:
            self._rule(sender, "-A", "INPUT", "-s", self.address(receiver), "-j", "DROP")

    def join(self, sender, receiver, one_way=False):
        """Ends a cut between two nodes."""
        self._rule(receiver, "-D", "INPUT", "-s", self.address(sender), "-j", "DROP")
        if not one_way:
            self._rule(sender, "-D", "INPUT", "-s", self.address(receiver), "-j", "DROP")

    def isolate(self, *names):
        """Cuts the links between these nodes and all others. The links among these nodes stay."""
        for name in names:
            for other in self.names:
                if other not in names:
                    self.cut(name, other)

    def delay(self, sender, receiver, milliseconds, jitter_ms=0, loss_percent=0, one_way=False):
        """Delays the packets from one node to another, and loses some. 0 ms ends the delay."""
        self._delay(sender, receiver, milliseconds, jitter_ms, loss_percent)
        if not one_way:
            self._delay(receiver, sender, milliseconds, jitter_ms, loss_percent)

    def _delay(self, sender, receiver, milliseconds, jitter_ms, loss_percent):
        rule = ["OUTPUT", "-d", self.address(receiver), "-j", "NFQUEUE", "--queue-num", str(NUMBERS[receiver]), "--queue-bypass"]
        before = self.delays.pop((sender, receiver), None)
        if before:
            self._rule(sender, "-D", *rule)
            before.kill()
            before.wait()
        if milliseconds or loss_percent:
            command = [sys.executable, str(DELAY), str(NUMBERS[receiver]), str(milliseconds), str(jitter_ms), str(loss_percent)]
            output = self.directory / f"delay-{sender}-{receiver}.log"
            output.unlink(missing_ok=True)
            process = self.delays[sender, receiver] = spawn(command, output, None, self, sender)
            # Waits, because packets pass without delay until the program has bound the queue.
            wait_until(lambda: is_ready(process, output), f"the queue from {sender} to {receiver} was not bound")
            self._rule(sender, "-A", *rule)

    def heal(self):
        """Ends all cuts and delays."""
        for sender, receiver in list(self.delays):
            self._delay(sender, receiver, 0, 0, 0)
        for name in self.names:
            self._rule(name, "-F", "INPUT")

    def _rule(self, name, *arguments):
        # `-w`: waits for the lock of iptables, which all namespaces share.
        run(*self.enter(name), "iptables", "-w", *arguments)

    def close(self):
        for process in self.delays.values():
            process.kill()
            process.wait()
        self.delays.clear()
        for name in self.made:
            run("ip", "netns", "delete", self.prefix + name)
        self.made.clear()


def is_ready(process, output):
    """Returns whether the program of a delay has bound its queue."""
    printed = output.read_text()
    assert process.poll() is None, f"delay.py ended: {printed}"
    return printed == f"{READY}\n"


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
