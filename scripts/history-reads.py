"""Measures how long a service takes to read old records, and checks the answers. scripts/bench-history runs this program."""

import argparse
import bisect
import contextlib
import csv
import datetime
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

import tally_client

EPILOG = """
as-of  One account is debited in every transaction, so it has as many records as the ledger has transactions. For each of --sizes, the
       program first sends transactions until the account has this number of records. It exports them (tally export) and computes from the
       export what the account had after each transaction: the replay. Then it calls GetAccount as of random sequences and of random times,
       and compares each answer with the replay. A different answer ends the run with exit code 1.
cold   The program sends transactions between N accounts, chosen uniformly. N is such that each account gets about --entries records, far
       apart in the journal. Then it reads statements in pages of 100 rows, in three ways: page after page, with nothing of the journal in
       the page cache at the beginning; pages at random places, with an empty page cache before each page; and page after page again, with
       the files of the journal in the page cache. posix_fadvise takes the files out of the cache, so no privileges are needed. The rows of
       a whole statement must add up to the account's balances.

The latencies are measured by a client in Python on the same machine. A *reading* of the journal is a system call that reads from one
block. The number of readings, and of bytes from the disk, are those of the service's process (/proc/PID/io)."""
BATCH = 8192
HOT = "acct-00000000"
PAGE = 100
# Values of tally.v1.Side.
SIDE_DEBIT, SIDE_CREDIT = 1, 2


class Service:
    """A service on a directory below `home`."""

    def __init__(self, binary, home):
        self.binary, self.data, self.process = binary, home / "data", None
        self.log = open(home / "log", "w+")

    def start(self):
        settings = {"TALLY__TELEMETRY__LOG": "error", "TALLY__BREAKER__SLOW_THRESHOLD": "60s"}
        addresses = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [self.binary, "serve", "--data", self.data, *addresses],
            env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=self.log, text=True,
        )  # fmt: skip
        said = {}
        while len(said) < 2:
            line = self.process.stdout.readline()
            if not line:
                self.log.seek(0)
                sys.exit(f"scripts/bench-history: the service did not start:\n{self.log.read()}")
            if match := re.match(r"(listening|operators) on (\S+)$", line):
                said[match[1]] = match[2]
        self.address, self.operators = said["listening"], said["operators"]
        self.client = tally_client.Tally(self.address)
        # Looks up the methods before the measurement, because a look-up asks the service for its descriptors (reflection).
        self.get_account, self.get_account_request = self.client.method("AccountService.GetAccount")
        self.list_entries, self.list_entries_request = self.client.method("AccountService.ListAccountEntries")

    def stop(self):
        if self.process:
            self.client.channel.close()
            self.process.send_signal(signal.SIGTERM)
            self.process.wait()
        self.process = None

    def send(self, transactions, seed, *load):
        """Sends transactions with ids of their own, in batches, one after the other."""
        options = ["--mode", "batch", "--batch", str(BATCH), "--in-flight", "1", "--connections", "1"]
        counted = ["--transactions", str(transactions), "--seed", str(seed), "--json"]
        command = [self.binary, "bench", "--endpoint", f"http://{self.address}", *options, *counted, *load]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def records_followed(self):
        """The number of records that the reads of the history have followed so far."""
        with urllib.request.urlopen(f"http://{self.operators}/metrics") as answer:
            return int(float(re.search(rb"^tally_history_records_total (\S+)$", answer.read(), re.MULTILINE)[1]))

    def io(self):
        """The number of read calls of the process so far, and the number of bytes that it got from the disk."""
        lines = pathlib.Path(f"/proc/{self.process.pid}/io").read_text().splitlines()
        figures = dict(line.split(": ") for line in lines)
        return int(figures["syscr"]), int(figures["read_bytes"])

    def drop_cache(self):
        """Takes the files of the data directory out of the page cache."""
        for path in self.data.rglob("*"):
            if path.is_file():
                file = os.open(path, os.O_RDONLY)
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(file)

    def journal_bytes(self):
        return sum(path.stat().st_blocks * 512 for path in self.data.rglob("*") if path.is_file())


def timed(call, request):
    """Returns the response, and the latency in milliseconds."""
    begun = time.perf_counter()
    response = call(request, timeout=tally_client.TIMEOUT_S)
    return response, 1000 * (time.perf_counter() - begun)


def quantile(values, part):
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)]


def units(amount):
    assert not amount.HasField("wide_minor_units")
    return amount.minor_units


def posted(balances):
    return units(balances.debits_posted), units(balances.credits_posted)


class Replay:
    """The debits of the hot account after each transaction, in the order of the ledger."""

    def __init__(self):
        self.times, self.debits = [], [0]

    def read(self, service, home):
        """Exports and adds the transactions that are not yet in this replay."""
        path = home / "ledger.csv"
        command = [service.binary, "export", "--endpoint", f"http://{service.address}", "--output", path]
        subprocess.run([*command, "--from", str(len(self.times) + 1)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                assert int(row["sequence"]) == len(self.times) + 1 and row["debit_account_id"] == HOT, row
                self.times.append(nanoseconds(row["commit_time"]))
                self.debits.append(self.debits[-1] + int(row["posted"]))
        path.unlink()

    def moment(self, by_time):
        """Returns a random moment, as fields of the request, and the debits at that moment."""
        count = random.randint(1, len(self.times))
        if not by_time:
            return {"as_of_sequence": count}, self.debits[count]
        # Exactly the time of a transaction, or one nanosecond before or after that time.
        moment = self.times[count - 1] + random.randint(-1, 1)
        seconds, nanos = divmod(moment, 10**9)
        return {"as_of_time": {"seconds": seconds, "nanos": nanos}}, self.debits[bisect.bisect_right(self.times, moment)]


def nanoseconds(text):
    """Returns a time of RFC 3339 in UTC as nanoseconds since the epoch. Python's own type has microseconds only."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.timezone.utc).timestamp()
    return int(seconds) * 10**9 + int(fraction.ljust(9, "0") or 0)


def measure_as_of(service, replay, reads, by_time):
    """Returns the latencies, the records followed, and the readings of the journal of each read."""
    latencies, followed, readings = [], [], []
    for _ in range(reads):
        moment, expected = replay.moment(by_time)
        request = service.get_account_request(account_id=HOT, **moment)
        records, (calls, _) = service.records_followed(), service.io()
        response, latency = timed(service.get_account, request)
        readings.append(service.io()[0] - calls)
        followed.append(service.records_followed() - records)
        latencies.append(latency)
        balances = posted(response.account.balances)
        if balances != (expected, 0):
            sys.exit(f"scripts/bench-history: as of {moment}: debits and credits are {balances}, and not {(expected, 0)}")
    return latencies, followed, readings


def as_of(service, home, options):
    """Measures GetAccount as of random moments of an account that gets more and more records."""
    service.start()
    replay = Replay()
    print("| records of the account | by sequence, p50 / p99 | by time, p50 / p99 | records followed, p50 / p99 / most | readings of the journal, p50 / most |")
    print("|---|---|---|---|---|", flush=True)
    for seed, size in enumerate(options.sizes, 1):
        service.send(size - len(replay.times), seed, "--hot")
        replay.read(service, home)
        assert len(replay.times) == size
        # Not counted: the first reads also make the marks of each segment, which later reads use.
        measure_as_of(service, replay, options.reads // 10, by_time=False)
        by_sequence = measure_as_of(service, replay, options.reads, by_time=False)
        by_time = measure_as_of(service, replay, options.reads, by_time=True)
        latencies = [f"{quantile(values, 0.5):.2f} / {quantile(values, 0.99):.2f} ms" for values, _, _ in (by_sequence, by_time)]
        followed, readings = by_sequence[1] + by_time[1], by_sequence[2] + by_time[2]
        records = " / ".join(str(quantile(followed, part)) for part in (0.5, 0.99, 1))
        blocks = " / ".join(str(quantile(readings, part)) for part in (0.5, 1))
        print(f"| {size:,} | {' | '.join(latencies)} | {records} | {blocks} |", flush=True)
    print(f"\nAll {2 * options.reads * len(options.sizes):,} answers were those of the replay.")
    for newest_first in (True, False):
        latencies = [latency for _, latency in pages(service, HOT, newest_first, options.reads)]
        order = "newest" if newest_first else "oldest"
        print(f"A page of {PAGE} rows of its statement, {order} first: {quantile(latencies, 0.5):.2f} / {quantile(latencies, 0.99):.2f} ms.")


def pages(service, account, newest_first, most=None):
    """Reads a statement from its beginning. Yields each page and its latency."""
    request = service.list_entries_request(account_id=account, page_size=PAGE, newest_first=newest_first)
    while most is None or most > 0:
        page, latency = timed(service.list_entries, request)
        yield page, latency
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
        most = most and most - 1


def walk(service, account, newest_first):
    """Reads a whole statement, and checks its running balances. Returns the number of rows, and for each page its latency, the readings and
    the bytes from the disk."""
    rows, figures, before = [], [], service.io()
    for page, latency in pages(service, account, newest_first):
        after = service.io()
        figures.append((latency, after[0] - before[0], after[1] - before[1]))
        before = after
        rows += [(entry.side, units(entry.amount), posted(entry.balances)) for entry in page.entries]
    if newest_first:
        rows.reverse()
    sums = {SIDE_DEBIT: 0, SIDE_CREDIT: 0}
    for side, amount, balances in rows:
        sums[side] += amount
        if balances != tuple(sums.values()):
            sys.exit(f"scripts/bench-history: {account}: a row has the balances {balances}, and not {sums}")
    balances = posted(service.client.call("AccountService.GetAccount", account_id=account).account.balances)
    if balances != tuple(sums.values()):
        sys.exit(f"scripts/bench-history: {account} has the balances {balances}, and its rows add up to {sums}")
    return len(rows), figures


def random_places(service, account, newest_first, count, transactions):
    """Reads pages at random places, each with nothing of the journal in the page cache."""
    figures = []
    for _ in range(count):
        place = random.randint(1, transactions)
        bound = {"to_sequence": place} if newest_first else {"from_sequence": place}
        request = service.list_entries_request(account_id=account, page_size=PAGE, newest_first=newest_first, **bound)
        service.drop_cache()
        before = service.io()
        _, latency = timed(service.list_entries, request)
        after = service.io()
        figures.append((latency, after[0] - before[0], after[1] - before[1]))
    return figures


def cold(service, _home, options):
    """Measures the statements of accounts whose records are spread over a large journal."""
    accounts = 2 * options.transactions // options.entries
    service.start()
    service.send(options.transactions, 1, "--accounts", str(accounts))
    size = service.journal_bytes()
    print(f"{options.transactions:,} transactions between {accounts:,} accounts, {size / 2**30:.1f} GiB. Pages of {PAGE} rows:\n")
    # After a restart, everything in the service's memory comes from its checkpoint and the journal.
    service.stop()
    service.start()
    print("| pages | page cache | rows first | p50 / p99 | readings of the journal, p50 | from the disk, p50 |")
    print("|---|---|---|---|---|---|", flush=True)

    def report(which, cache, newest_first, figures):
        latencies, readings, disk = zip(*figures)
        first = "newest" if newest_first else "oldest"
        times = f"{quantile(latencies, 0.5):.2f} / {quantile(latencies, 0.99):.2f} ms"
        print(f"| {which} | {cache} | {first} | {times} | {quantile(readings, 0.5)} | {quantile(disk, 0.5) / 1024:.0f} KiB |", flush=True)

    for number, newest_first in enumerate((False, True)):
        account = f"acct-{number + 1:08}"
        service.drop_cache()
        rows, figures = walk(service, account, newest_first)
        report(f"all {len(figures)} of an account, {rows:,} rows", "empty at the beginning", newest_first, figures)
        figures = random_places(service, account, newest_first, options.reads, options.transactions)
        report(f"{options.reads} at random places", "empty before each page", newest_first, figures)
        # The first walk fills the page cache. Only the second walk is measured.
        walk(service, account, newest_first)
        _, figures = walk(service, account, newest_first)
        report(f"all {len(figures)} of an account", "has what is read", newest_first, figures)


def number(text):
    return int(text.replace("_", ""))


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/bench-history", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measures the reads of the history of a service, and checks what they return.",
    )  # fmt: skip
    parser.add_argument("what", choices=("as-of", "cold"))
    parser.add_argument("--binary", type=pathlib.Path, default="target/dist/tally", help="the service and the load [default: %(default)s]")
    parser.add_argument("--data", type=pathlib.Path, help="directory for the data [default: the directory for temporary files]")
    parser.add_argument("--reads", type=number, default=1000, help="reads of each kind [default: %(default)s]")
    parser.add_argument("--seed", type=number, default=1, help="seed of the random moments and places [default: %(default)s]")
    sizes = [10_000, 100_000, 1_000_000, 2_000_000]
    parser.add_argument("--sizes", type=number, nargs="+", default=sizes, metavar="N", help="as-of: records of the account, ascending")
    parser.add_argument("--transactions", type=number, default=90_000_000, help="cold: in the ledger [default: %(default)s]")
    parser.add_argument("--entries", type=number, default=100_000, help="cold: records of each account [default: %(default)s]")
    options = parser.parse_args()
    binary = options.binary.resolve()
    if not os.access(binary, os.X_OK):
        parser.error(f"no binary at {binary}; run cargo build --profile dist")
    if options.sizes != sorted(set(options.sizes)):
        parser.error("--sizes: not ascending")
    random.seed(options.seed)
    if options.data:
        options.data.mkdir(parents=True, exist_ok=True)
    home = pathlib.Path(tempfile.mkdtemp(dir=options.data))
    service = Service(binary, home)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        stack.callback(service.stop)
        {"as-of": as_of, "cold": cold}[options.what](service, home, options)


main()
