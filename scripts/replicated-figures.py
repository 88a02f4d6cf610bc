"""Measures the replicated store on a cluster of this machine. Run by scripts/bench-replicated."""

import argparse
import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from cluster import Cluster
from nodes import wait_until

DESCRIPTION = """Starts three brokers and three Tallys on this machine, and measures:

batch     tally bench, calls of 8192 transactions, 4 in flight; and raw appends of as many bytes in blocks of the same size, through the
          same client of the log (crates/kafka/examples/append.rs), 2 requests in flight as in the default of the store
lone      one call of ProcessTransaction at a time; and raw appends of 4 KiB, one at a time
unary     256 calls of ProcessTransaction in flight; and the same on the embedded store
lag       during a load as in `batch`: how long ago the leader had acknowledged what the standby has read from the log, and what it has
          applied and synced, sampled about every 10 ms
catch-up  a standby is stopped while transactions are written as in `batch`; then it starts, and reads what it has missed. The time of the
          start, in which it opens its directory, is separate: it does not depend on how far the standby is behind
memory    resident memory of each Tally after all other measurements

A pair is measured by turns. Clients, brokers and Tallys share the CPUs. Figures are medians over the rounds. `cpu_us` is the CPU time for a
transaction, in µs."""
EPILOG = """Each round is one line of JSON on standard error, and the table comes last. With --results, the table is made of all rounds in the file,
so several short runs give one table."""
ALL = ["batch", "lone", "unary", "lag", "catch-up", "memory"]
RAW_TOPIC = "raw"
BATCH = 8192
# The circuit breaker may reject calls while the brokers wait for CPU, and a figure is that of all calls.
SETTINGS = {"breaker.mode": "disabled", "telemetry.log": "warn,tally::replica=info"}
SAMPLE_PAUSE_S = 0.003


class Bench:
    """The cluster and what was measured. `results` is a list of dictionaries: the measurement, and its figures of one round."""

    def __init__(self, options, cluster, results):
        self.options, self.cluster, self.results = options, cluster, results
        self.seed = int(time.time()) % 1_000_000 * 100

    def note(self, measurement, **figures):
        line = {"measurement": measurement, **figures}
        self.results.append(line)
        if self.options.results:
            with open(self.options.results, "a") as file:
                file.write(json.dumps(line) + "\n")
        print(json.dumps(line), file=sys.stderr, flush=True)

    def leader(self):
        wait_until(lambda: self.cluster.leading_tally() is not None, "nobody leads")
        return self.cluster.leading_tally()

    def standbys(self):
        return [tally for tally in self.cluster.tallys if tally is not self.leader()]

    def load(self, *arguments, endpoint=None):
        """Runs `tally bench`, and returns its report."""
        self.seed += 1
        target = ["--endpoint", f"http://{endpoint or self.leader().address}"] if endpoint != "own" else ["--data", self.fresh()]
        command = [self.options.binary, "bench", *target, *arguments, "--rounds", "1", "--seed", str(self.seed), "--json"]
        environment = {"TALLY__TELEMETRY__LOG": "error", "TALLY__BREAKER__MODE": "disabled"}
        found = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True)
        if endpoint == "own":
            shutil.rmtree(self.options.directory / "embedded", ignore_errors=True)
        return json.loads(found.stdout)

    def fresh(self):
        shutil.rmtree(self.options.directory / "embedded", ignore_errors=True)
        return self.options.directory / "embedded"

    def warm_up(self):
        """Lets the Java machines of the brokers compile what they execute often, and measures nothing."""
        self.raw(4096, 1)
        self.batches(self.options.seconds)
        self.load("--mode", "unary", "--in-flight", "256", "--duration", f"{self.options.seconds}s")

    @contextlib.contextmanager
    def cpu(self):
        """Yields a dictionary that has the CPU time of the nodes afterwards, in seconds."""
        leader = self.leader()
        groups = {"leader": [leader], "standbys": self.standbys(), "brokers": self.cluster.brokers}
        before = {name: sum(map(cpu_s, nodes)) for name, nodes in groups.items()}
        used = {}
        yield used
        used |= {name: sum(map(cpu_s, nodes)) - before[name] for name, nodes in groups.items()}

    def batches(self, seconds):
        return self.load("--mode", "batch", "--batch", str(BATCH), "--in-flight", "4", "--duration", f"{seconds}s")

    def raw(self, block, in_flight):
        """Appends blocks of this size, and returns MB/s and the median in ms."""
        command = [self.options.append, "--brokers", self.cluster.bootstrap, "--topic", RAW_TOPIC]
        command += ["--block", str(block), "--in-flight", str(in_flight), "--seconds", str(self.options.seconds)]
        found = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
        match = re.search(r"([\d.]+) MB/s, p50 ([\d.]+) ms", found)
        assert match, found
        return float(match[1]), float(match[2])

    # ----- the measurements

    def measure_batch(self):
        leader = self.leader()
        for _ in range(self.options.rounds):
            before = figures(leader)
            with self.cpu() as used:
                report = self.batches(self.options.seconds)
            # With the warm-up, whose transactions are the same.
            written, blocks, committed = (now - then for now, then in zip(figures(leader), before))
            rate, bytes_each, block = report["transactions_per_second"], written / committed, round(written / blocks)
            mb_per_s, _ = self.raw(block, 2)
            self.note(
                "batch", transactions_per_s=rate, p50_ms=report["latency_us"]["p50"] / 1000, bytes_per_transaction=bytes_each,
                block_bytes=block, raw_mb_per_s=mb_per_s, ratio=rate * bytes_each / 1e6 / mb_per_s,
                **{f"cpu_us_{name}": time_s * 1e6 / committed for name, time_s in used.items()},
            )  # fmt: skip

    def measure_lone(self):
        arguments = ["--mode", "unary", "--in-flight", "1", "--connections", "1", "--duration", f"{self.options.seconds}s"]
        for _ in range(self.options.rounds):
            latency = self.load(*arguments)["latency_us"]
            _, raw_ms = self.raw(4096, 1)
            self.note("lone", p50_ms=latency["p50"] / 1000, p99_ms=latency["p99"] / 1000, raw_p50_ms=raw_ms)

    def measure_unary(self):
        arguments = ["--mode", "unary", "--in-flight", "256", "--duration", f"{self.options.seconds}s"]
        for _ in range(self.options.rounds):
            before = figures(self.leader())
            with self.cpu() as used:
                replicated = self.load(*arguments)
            _, blocks, committed = (now - then for now, then in zip(figures(self.leader()), before))
            embedded = self.load(*arguments, endpoint="own")
            rates = [report["transactions_per_second"] for report in (replicated, embedded)]
            self.note(
                "unary", transactions_per_s=rates[0], p50_ms=replicated["latency_us"]["p50"] / 1000, embedded_per_s=rates[1],
                ratio=rates[0] / rates[1], transactions_per_block=committed / blocks,
                **{f"cpu_us_{name}": time_s * 1e6 / committed for name, time_s in used.items()},
            )  # fmt: skip

    def measure_lag(self):
        leader, standbys = self.leader(), self.standbys()
        for _ in range(self.options.rounds):
            samples = Samples(leader, standbys)
            with samples:
                report = self.batches(self.options.seconds)
            read_ms, applied_ms = (samples.lags_ms(name) for name in Samples.PROGRESS)
            self.note(
                "lag", read_p99_ms=quantile(read_ms, 0.99), p50_ms=quantile(applied_ms, 0.5), p99_ms=quantile(applied_ms, 0.99),
                max_ms=max(applied_ms), transactions_per_s=report["transactions_per_second"],
            )  # fmt: skip

    def measure_catch_up(self):
        standby = self.standbys()[0]
        for _ in range(max(1, self.options.rounds // 2)):
            leader = self.leader()
            wait_until(lambda: metric(standby, "tally_journal_bytes") == metric(leader, "tally_journal_bytes"), "the standby lags")
            at = metric(standby, "tally_journal_bytes")
            standby.stop()
            before = figures(leader)
            rate = self.batches(3 * self.options.seconds)["transactions_per_second"]
            written, _, committed = (now - then for now, then in zip(figures(leader), before))
            written_s = committed / rate
            behind = metric(leader, "tally_journal_bytes") - at
            begun = time.monotonic()
            standby.start()
            # The directory is open, and the standby begins to read the log.
            wait_until(standby.is_live, "the standby does not start", 120, every_s=0.01)
            start_s = time.monotonic() - begun
            wait_until(standby.is_ready, "the standby is not ready", 120, every_s=0.01)
            read_s = time.monotonic() - begun - start_s
            self.note(
                "catch-up", mb=behind / 1e6, written_mb_per_s=written / 1e6 / written_s, start_s=start_s, read_s=read_s,
                read_mb_per_s=behind / 1e6 / read_s, ratio=(behind / read_s) / (written / written_s),
            )  # fmt: skip

    def measure_memory(self):
        self.batches(self.options.seconds)
        leader = self.leader()
        standbys = [tally.memory_mb() for tally in self.standbys()]
        self.note("memory", leader_mb=leader.memory_mb(), standby_mb=max(standbys), ratio=max(standbys) / leader.memory_mb())


def cpu_s(node):
    """Returns the CPU time of a process so far, in seconds."""
    fields = pathlib.Path(f"/proc/{node.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Samples:
    """Samples the progress of the replicas: the last block that was accepted from the log, and the length of the journal, which has what
    was applied and synced. Both are equal on all replicas that have the same blocks, so they say who is behind."""

    PROGRESS = ("tally_replica_accepted_block", "tally_journal_bytes")

    def __init__(self, leader, standbys):
        self.leader, self.standbys = leader, standbys
        self.of_leader, self.of_standbys = [], []
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        sources = {tally: Scrape(tally) for tally in (self.leader, *self.standbys)}
        while not self.stopped.is_set():
            self.of_leader.append(sources[self.leader].read())
            for standby in self.standbys:
                self.of_standbys.append(sources[standby].read())
            time.sleep(SAMPLE_PAUSE_S)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join()

    def lags_ms(self, name):
        """For each sample of a standby: how long ago the leader was first seen with more progress. 0 if it was not."""
        found = []
        for at, progress in self.of_standbys:
            ahead = next((seen for seen, of_leader in self.of_leader if of_leader[name] > progress[name]), at)
            found.append(max(0.0, at - ahead) * 1000)
        return found


class Scrape:
    """Reads the progress of a Tally again and again."""

    def __init__(self, tally):
        self.connection = http.client.HTTPConnection(*tally.admin_address.split(":"), timeout=5)

    def read(self):
        self.connection.request("GET", "/metrics")
        text = self.connection.getresponse().read()
        return time.monotonic(), {name: value_of(text, name) for name in Samples.PROGRESS}


def metric(tally, name):
    connection = http.client.HTTPConnection(*tally.admin_address.split(":"), timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        return value_of(connection.getresponse().read(), name)


def value_of(text, name):
    return float(re.search(rb"^" + re.escape(name.encode()) + rb" (\S+)$", text, re.MULTILINE)[1])


def figures(tally):
    """Returns the bytes and blocks of the journal, and the number of committed transactions."""
    names = ["tally_journal_bytes", "tally_replica_accepted_block", 'tally_transactions_total{outcome="committed"}']
    return [metric(tally, name) for name in names]


def quantile(values, part):
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)]


def rows(results):
    """Yields the rows of the table: what, the figure, what it is compared with, the ratio or the difference, the target."""

    def middle(measurement, key):
        return statistics.median(line[key] for line in results if line["measurement"] == measurement)

    def rounds(measurement):
        return sum(line["measurement"] == measurement for line in results)

    def thousands(value):
        return f"{value / 1000:.0f} k/s"

    if rounds("batch"):
        rate, size, raw = (middle("batch", key) for key in ("transactions_per_s", "bytes_per_transaction", "raw_mb_per_s"))
        compared = f"{rate * size / 1e6:.1f} of {raw:.1f} MB/s raw, blocks of {middle('batch', 'block_bytes') / 1024:.0f} KiB"
        name = f"batches of {BATCH}, 4 in flight (p50 {middle('batch', 'p50_ms'):.0f} ms)"
        yield name, thousands(rate), compared, f"{middle('batch', 'ratio'):.2f} ×", "≥ 0.6 ×, ≥ 430 k/s", rounds("batch")
    if rounds("lone"):
        own, raw = middle("lone", "p50_ms"), middle("lone", "raw_p50_ms")
        yield "a lone call, p50", f"{own:.2f} ms", f"raw 4 KiB: {raw:.2f} ms", f"+ {own - raw:.2f} ms", "≤ + 0.4 ms", rounds("lone")
    if rounds("unary"):
        compared = f"embedded: {thousands(middle('unary', 'embedded_per_s'))}"
        rate, ratio = middle("unary", "transactions_per_s"), middle("unary", "ratio")
        yield "unary, 256 in flight", thousands(rate), compared, f"{ratio:.2f} ×", "≥ 0.6 ×", rounds("unary")
    if rounds("lag"):
        rate = thousands(middle("lag", "transactions_per_s"))
        read, p50, p99, most = (middle("lag", key) for key in ("read_p99_ms", "p50_ms", "p99_ms", "max_ms"))
        yield "lag of a standby under load: blocks read from the log, p99", f"{read:.0f} ms", f"at {rate}", "", "≤ 50 ms", rounds("lag")
        compared = f"p50 {p50:.0f} ms, max {most:.0f} ms"
        yield "the same: blocks applied and synced, p99", f"{p99:.0f} ms", compared, "", "≤ 50 ms", rounds("lag")
    if rounds("catch-up"):
        read, written = middle("catch-up", "read_mb_per_s"), middle("catch-up", "written_mb_per_s")
        compared = f"written at {written:.1f} MB/s, {middle('catch-up', 'mb'):.0f} MB, after a start of {middle('catch-up', 'start_s'):.1f} s"
        yield "catch-up of a standby", f"{read:.1f} MB/s", compared, f"{middle('catch-up', 'ratio'):.1f} ×", "≥ 2 ×", rounds("catch-up")
    if rounds("memory"):
        own, leader = middle("memory", "standby_mb"), middle("memory", "leader_mb")
        yield "memory of a standby", f"{own:.0f} MB", f"leader: {leader:.0f} MB", f"{own / leader:.2f} ×", "1 ×", rounds("memory")


def print_table(results):
    print("| | measured | compared with | ratio, difference | target | rounds |\n|---|---|---|---|---|---|")
    for row in rows(results):
        print("| " + " | ".join(map(str, row)) + " |")


def main():
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="scripts/bench-replicated", description=DESCRIPTION, epilog=EPILOG, formatter_class=layout)
    # Not `choices`: argparse would check the default, too.
    parser.add_argument("measurements", nargs="*", metavar="MEASUREMENT", help=f"{', '.join(ALL)} [default: all of them]")
    parser.add_argument("--binary", default="target/dist/tally", type=pathlib.Path, help="default: target/dist/tally")
    append = pathlib.Path("target/dist/examples/append")
    hint = "cargo build --locked --profile dist -p tally-kafka --example append"
    parser.add_argument("--append", default=append, type=pathlib.Path, help=f"the raw client; default: {append}, made by `{hint}`")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--seconds", type=int, default=3, help="length of a round; default: 3")
    parser.add_argument("--results", type=pathlib.Path, help="appends the figures to this file, and makes the table of all of them")
    parser.add_argument("--directory", type=pathlib.Path, help="the files of the cluster; default: a temporary directory")
    parser.add_argument("--table", action="store_true", help="measures nothing: prints the table of --results")
    options = parser.parse_args()
    for name in options.measurements:
        if name not in ALL:
            parser.error(f"{name}: must be one of {', '.join(ALL)}")
    results = []
    if options.results and options.results.exists():
        results = [json.loads(line) for line in options.results.read_text().splitlines()]
    if options.table:
        return print_table(results)
    for program in (options.binary, options.append):
        if not program.exists():
            parser.error(f"there is no program {program}")
    options.binary, options.append = options.binary.absolute(), options.append.absolute()
    with tempfile.TemporaryDirectory(prefix="tally-replicated-") as scratch:
        options.directory = (options.directory or pathlib.Path(scratch)).absolute()
        with Cluster(options.directory / "cluster", tallys=3, binary=options.binary, tally_settings=SETTINGS) as cluster:
            cluster.start()
            cluster.create_topic(RAW_TOPIC)
            bench = Bench(options, cluster, results)
            bench.warm_up()
            for name in options.measurements or ALL:
                getattr(bench, f"measure_{name.replace('-', '_')}")()
            cluster.stop()
    print_table(results)


if __name__ == "__main__":
    main()
