"""Runs `load.py` in the background of a test, and reads its history."""

import json
import pathlib
import sys
import time

from checker import History
from nodes import spawn, wait_until

PROGRAM = pathlib.Path(__file__).with_name("load.py")
# The longest time until an operation ends after the end of the last fault, in seconds.
END_TIMEOUT_S = 120


class Load:
    """A load on all Tallys of a cluster.

    with Load(cluster, "failover") as load:
        cluster.leading_tally().kill()
        load.wait_for_progress()
    load.history()
    """

    def __init__(self, cluster, name, workers=4, pause_ms=10, seed=1):
        self.cluster, self.name = cluster, name
        self.path = cluster.directory / f"{name}.jsonl"
        self.output = cluster.directory / f"{name}.log"
        endpoints = [tally.address for tally in cluster.tallys]
        self.command = [sys.executable, str(PROGRAM), str(self.path), str(seed), str(workers), str(pause_ms), *endpoints]
        self.read, self.acknowledged = 0, []

    def __enter__(self):
        self.path.unlink(missing_ok=True)
        self.process = spawn(self.command, self.output, None, self.cluster.network, "client")
        self.wait_for_progress()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(END_TIMEOUT_S)
        finally:
            self.process.kill()
            self.process.wait()
        assert self.process.returncode == 0, f"the load ended with {self.process.returncode}:\n{self.output.read_text()[-3000:]}"

    def kill(self):
        """Kills the load. Operations that are in flight are not in its history."""
        self.process.kill()
        self.process.wait()

    def new_lines(self):
        """Returns the lines that were written since the last call."""
        if not self.path.exists():
            return []
        with open(self.path, "rb") as file:
            file.seek(self.read)
            *lines, rest = file.read().split(b"\n")
            self.read = file.tell() - len(rest)
        return [json.loads(line) for line in lines]

    def first_acknowledged_after(self, time_ns):
        """Returns the time of the first acknowledgement of a transaction that was sent after `time_ns`; None if there is none yet."""
        writes = [line for line in self.new_lines() if line["kind"] == "write" and line["out"] == "committed"]
        self.acknowledged += [(line["last_sent"], line["done"]) for line in writes]
        return min((done for sent, done in self.acknowledged if sent > time_ns), default=None)

    def wait_for_progress(self, since_ns=None, timeout_s=60):
        """Waits for the acknowledgement of a transaction that was sent after `since_ns` (default: now). Returns its time."""
        since_ns = since_ns or time.monotonic_ns()

        def progress():
            assert self.process.poll() is None, f"the load ended:\n{self.output.read_text()[-3000:]}"
            return self.first_acknowledged_after(since_ns)

        done = wait_until(progress, f"no transaction of {self.name} was acknowledged", timeout_s, every_s=0.02)
        self.acknowledged.clear()
        return done

    def history(self):
        return History(self.path)
