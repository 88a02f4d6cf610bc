"""The circuits of the Tallys with the values for replicated stores, which are their default, and with real brokers.

A log that acknowledges nothing opens them, so that callers learn it instead of waiting. A leader under full load does not.
"""

import http.client
import json
import os
import re
import subprocess

import pytest
from cluster import Cluster
from loads import Load
from nodes import wait_until

# The rule for thin traffic: two slow thresholds of 2 s, and 50 ms. The load is thin, and its calls have deadlines of a second.
OPENS_WITHIN_S = 20
# The circuits stay open for at most 10 s before they probe, and the ramp takes 2 s.
CLOSES_WITHIN_S = 60


@pytest.fixture(scope="module")
def ledger(tmp_path_factory, tally_binary):
    with Cluster(tmp_path_factory.mktemp("breaker"), tallys=3, binary=tally_binary) as cluster:
        cluster.start()
        wait_until(lambda: cluster.leading_tally() is not None, "nobody leads")
        yield cluster
        for broker in cluster.brokers:
            if broker.paused:
                broker.resume()
        cluster.stop()


def metrics(tally):
    host, port = tally.admin_address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def transitions(tallys):
    """Returns the state changes of all circuits so far, as lines of the metrics."""
    found = []
    for tally in tallys:
        lines = re.findall(r"^tally_breaker_transitions_total\{.*$", metrics(tally), re.MULTILINE)
        found += [f"{tally.name} {line}" for line in lines]
    return found


def state(tally, key):
    return re.search(rf'^tally_breaker_state\{{key="{key}",state="(\w+)"\}} 1$', metrics(tally), re.MULTILINE)[1]


def bench(ledger, *arguments):
    """Runs `tally bench` on the leader, and returns its report. It ends with an error if a call failed."""
    leader = ledger.leading_tally()
    command = [os.environ["TALLY_BINARY"], "bench", "--endpoint", f"http://{leader.address}", *arguments]
    found = subprocess.run([*command, "--rounds", "1", "--duration", "4s", "--json"], stdout=subprocess.PIPE, check=True)
    return json.loads(found.stdout)


def test_full_load_opens_no_circuit(ledger):
    for arguments in (["--mode", "batch", "--in-flight", "8"], ["--mode", "unary", "--in-flight", "1024"]):
        found = bench(ledger, *arguments, "--seed", "7")
        rate, p99_ms = found["transactions_per_second"], found["latency_us"]["p99"] / 1000
        print(f"\nfull load, {arguments[1]}: {rate:.0f} transactions/s, p99 {p99_ms:.0f} ms")
    assert transitions(ledger.tallys) == []


def test_a_log_that_acknowledges_nothing_opens_the_circuits_until_it_does_again(ledger):
    with Load(ledger, "breaker") as load:
        leader = ledger.leading_tally()
        partition = ledger.leader()
        stopped = [broker for broker in ledger.brokers if broker is not partition]
        for broker in stopped:
            broker.pause()
        wait_until(lambda: state(leader, "ProcessTransaction") == "open", "the circuit stays closed", OPENS_WITHIN_S, every_s=0.1)
        assert leader.running
        for broker in stopped:
            broker.resume()
        load.wait_for_progress(timeout_s=CLOSES_WITHIN_S)
        ledger.wait_in_sync()

        def are_closed():
            return all(state(tally, "ProcessTransaction") == "closed" for tally in ledger.tallys if tally.is_ready())

        wait_until(are_closed, "a circuit does not close", CLOSES_WITHIN_S, every_s=0.2)
        load.wait_for_progress()
    print("", *transitions(ledger.tallys), sep="\n")
