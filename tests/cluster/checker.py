"""Compares the answers that the clients received (`load.py`) with the data directories of all replicas."""

import functools
import heapq
import itertools
import json
import pathlib
import subprocess

BLOCK_BYTES = 1 << 20


class History:
    """The lines that one load has written."""

    def __init__(self, path):
        lines = pathlib.Path(path).read_text().splitlines()
        # A load that was killed may have written half of its last line.
        self.lines = [json.loads(line) for line in lines if line.endswith("}")]
        self.name = pathlib.Path(path).stem
        self.begun_with = next(line["value"] for line in self.lines if line["kind"] == "begin")

    def of(self, *kinds, out=None):
        return [line for line in self.lines if line["kind"] in kinds and (out is None or line.get("out") == out)]

    @property
    def acknowledged(self):
        return self.of("write", "hold", out="committed")

    def first_acknowledged_after(self, time_ns):
        """Returns the time of the first acknowledgement of a transaction that was sent after `time_ns`; None if there is none."""
        done = [line["done"] for line in self.acknowledged if line["last_sent"] > time_ns]
        return min(done, default=None)


def check(history):
    """Checks that the answers do not contradict each other. Fails with the first few contradictions."""
    wrong = [line for line in history.of("again") if not line["same"]]
    assert not wrong, f"{len(wrong)} repetitions had another answer: {wrong[:3]}"
    failed = history.of("failed")
    assert not failed, f"{len(failed)} calls failed: {failed[:3]}"
    final = [line for line in history.of("write", "hold") if line.get("final")]
    assert not final, f"{len(final)} transactions were rejected for good: {final[:3]}"
    sequences = [line["sequence"] for line in history.acknowledged]
    assert len(sequences) == len(set(sequences)), "two transactions have the same sequence"
    check_order(history.acknowledged)
    check_reads(history)


def check_order(acknowledged):
    """Checks that A has a lower sequence than B if A was answered before B was sent."""
    answered = sorted(acknowledged, key=lambda line: line["done"])
    highest = None
    at = 0
    for line in sorted(acknowledged, key=lambda line: line["sent"]):
        while answered[at]["done"] < line["sent"]:
            if highest is None or answered[at]["sequence"] > highest["sequence"]:
                highest = answered[at]
            at += 1
        assert highest is None or highest["sequence"] < line["sequence"], (
            f"{highest['id']} was answered before {line['id']} was sent, and has a higher sequence: {highest}, {line}"
        )


def check_reads(history):
    """Checks that each read shows all writes that were acknowledged before it began, and everything that reads before it showed.

    The last read must not show more writes than were sent before it ended.
    """
    reads = sorted(history.of("read"), key=lambda line: line["last_sent"])
    acknowledged = sorted(line["done"] for line in history.of("write", out="committed"))
    sent = sorted(line["sent"] for line in history.of("write"))
    earlier = []
    shown = history.begun_with
    at = 0
    for read in reads:
        while at < len(acknowledged) and acknowledged[at] < read["last_sent"]:
            at += 1
        least = history.begun_with + at
        assert read["value"] >= least, f"a read shows {read['value']}, but {least} were acknowledged before: {read}"
        heapq.heappush(earlier, (read["done"], read["value"]))
        while earlier[0][0] < read["last_sent"]:
            shown = max(shown, heapq.heappop(earlier)[1])
        assert read["value"] >= shown, f"a read shows {read['value']}, but an earlier one has shown {shown}: {read}"
    # The history of a killed load lacks the operations that were in flight at the kill.
    if reads and history.of("end"):
        last = max(reads, key=lambda line: line["done"])
        most = history.begun_with + sum(1 for time in sent if time < last["done"])
        assert last["value"] <= most, f"a read shows {last['value']}, but only {most} were sent"


class Directory:
    """The contents of the data directory of a stopped replica."""

    def __init__(self, tally, scratch):
        self.name, self.data, self.binary = tally.name, pathlib.Path(tally.data), tally.binary
        self.verified = self._run("verify", str(self.data))
        exported = pathlib.Path(scratch) / f"{self.name}.ndjson"
        exported.unlink(missing_ok=True)
        self._run("export", "--data", str(self.data), "--format", "ndjson", "--output", str(exported))
        self.lines = [json.loads(line) for line in exported.read_text().splitlines()]

    def _run(self, *arguments):
        done = subprocess.run([str(self.binary), *arguments], capture_output=True, text=True)
        assert done.returncode == 0, f"{self.name}: tally {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
        return done.stdout

    @functools.cached_property
    def transactions(self):
        return [line for line in self.lines if "committed" in line]

    def fact(self, name):
        """Returns the value in the line `name` of the output of `tally verify`."""
        [found] = [line.split()[1] for line in self.verified.splitlines() if line.split()[:1] == [name]]
        return found


def check_directory(directory, *histories):
    """Checks that each acknowledged id is in the ledger exactly once, with its sequence, and that no refused id is in the ledger."""
    assert "sound" in directory.verified.split(), f"{directory.name}: {directory.verified}"
    found = {}
    for expected, transaction in enumerate(directory.transactions, start=1):
        sequence = int(transaction["committed"]["sequence"])
        assert sequence == expected, f"{directory.name}: sequence {sequence} is at position {expected}"
        # The expiry of a hold is a transaction without an id, so the check uses the id of the hold.
        key = transaction.get("transaction_id") or f"expiry of {transaction['pending_transaction_id']}"
        assert key not in found, f"{directory.name}: {key} is in the ledger twice: {found[key]} and {sequence}"
        found[key] = sequence
    for history in histories:
        for line in history.acknowledged:
            assert found.get(line["id"]) == line["sequence"], (
                f"{directory.name}: the acknowledged {line['id']} has sequence {found.get(line['id'])}: {line}"
            )
        for line in history.of("write", "hold", "reject"):
            if line["out"] in ("refused", "rejected"):
                assert line["id"] not in found, f"{directory.name}: {line['id']} was {line['out']}, but is in the ledger: {line}"
        for line in history.of("watch"):
            check_watch(directory, line)
    sides = {"debit": 0, "credit": 0}
    for transaction in directory.transactions:
        for effect in transaction.get("effects", []):
            for side in sides:
                if effect.get(f"{side}_account_id"):
                    sides[side] += int(effect.get("posted_amount", {}).get("minor_units", 0))
    assert sides["debit"] == sides["credit"]


def check_watch(directory, line):
    """Checks that a watcher received the ledger without a gap or a duplicate, and nothing that the ledger does not contain now."""
    sequences = [sequence for sequence, _ in line["found"]]
    expected = list(range(line["from"], line["from"] + len(sequences)))
    assert sequences == expected, f"a watcher received {sequences} from {line['from']}"
    kept = directory.transactions[sequences[0] - 1 : sequences[-1]]
    kept = [[int(transaction["committed"]["sequence"]), transaction.get("transaction_id", "")] for transaction in kept]
    assert kept == line["found"], f"{directory.name}: a watcher received {line['found']}, but the ledger has {kept}"


def check_same(directories):
    """Checks that the files FORMAT are equal, and that each journal is byte for byte the beginning of every longer one."""
    first, *others = directories
    for other in others:
        assert (first.data / "FORMAT").read_bytes() == (other.data / "FORMAT").read_bytes(), f"FORMAT of {other.name} differs"
        common = min(len(first.transactions), len(other.transactions))
        assert first.transactions[:common] == other.transactions[:common], f"the ledgers of {first.name} and {other.name} differ"
    bytes_of = [journal_bytes(directory) for directory in directories]
    for one, two in itertools.combinations(zip(directories, bytes_of), 2):
        (shorter, few), (longer, many) = sorted((one, two), key=lambda pair: len(pair[1]))
        same = many[: len(few)] == few
        assert same, f"the journals of {shorter.name} and {longer.name} differ at byte {first_difference(few, many)}"


def journal_bytes(directory):
    """Returns the bytes of all segments, without the zeros at the end, which are free space for more blocks."""
    segments = sorted((directory.data / "journal").glob("*.segment"))
    return b"".join(segment.read_bytes() for segment in segments).rstrip(b"\0")


def first_difference(one, two):
    for start in range(0, len(one), BLOCK_BYTES):
        if one[start : start + BLOCK_BYTES] != two[start : start + BLOCK_BYTES]:
            pairs = zip(one[start : start + BLOCK_BYTES], two[start : start + BLOCK_BYTES])
            return start + next(index for index, (left, right) in enumerate(pairs) if left != right)
    return len(one)


def check_all(tallys, histories, scratch):
    """Runs all checks on stopped replicas. Returns counts for a report."""
    for history in histories:
        check(history)
    directories = [Directory(tally, scratch) for tally in tallys]
    for directory in directories:
        check_directory(directory, *histories)
    check_same(directories)
    return {
        "blocks": [int(directory.fact("blocks")) for directory in directories],
        "transactions": [len(directory.transactions) for directory in directories],
        "acknowledged": sum(len(history.acknowledged) for history in histories),
        "refused": sum(len(history.of("write", "hold", "reject", out="refused")) for history in histories),
        "unknown": sum(len(history.of("write", "hold", "reject", out="unknown")) for history in histories),
        "reads": sum(len(history.of("read")) for history in histories),
        "watched": sum(len(line["found"]) for history in histories for line in history.of("watch")),
        "repetitions": sum(len(history.of("again")) for history in histories),
    }
