"""Ends the leading Tally or a broker in several ways, under load. Prints how long the clients had no answer.

`--kills N` sets the number of kills of the leading Tally. `--bounds` compares the times with bounds, which hold for a release binary
on a machine that does nothing else.
"""

import statistics
import time

import pytest
from checker import check_all
from cluster import Cluster
from conftest import need_network
from loads import Load
from nodes import wait_until

# On a busy machine, the circuit breaker would reject calls, which these tests would count as part of a failover.
SETTINGS = {"breaker.mode": "disabled"}
# Bounds in seconds, from the signal to the first transaction that was sent after it and acknowledged.
KILL_MEDIAN_S, KILL_MAX_S, STOP_MAX_S = 0.9, 2.0, 0.3


@pytest.fixture(scope="module")
def ledger(tmp_path_factory, tally_binary, options):
    """A cluster with three Tallys. After all tests of this file, compares the answers to all loads with the ledger."""
    need_network()
    directory = tmp_path_factory.mktemp("ledger")
    timeouts = {"session_ms": options.session_ms}
    with Cluster(
        directory, tallys=3, network=True, binary=tally_binary, tally_settings=SETTINGS, timeouts=timeouts
    ) as cluster:
        cluster.start()
        cluster.histories = []
        yield cluster
        cluster.network.heal()
        cluster.stop()
        report("checked", check_all(cluster.tallys, cluster.histories, cluster.directory))


def report(what, found):
    print(f"\n{what}: {found}")


def summary(times_s):
    listed = " ".join(f"{time_s:.2f}" for time_s in times_s)
    return f"p50 {statistics.median(times_s):.2f} s, max {max(times_s):.2f} s: {listed}"


def outage_s(load, begun_ns):
    return (load.wait_for_progress(begun_ns) - begun_ns) / 1e9


def settle(ledger):
    """Waits until all Tallys run and can take over."""
    for tally in ledger.tallys:
        wait_until(tally.is_ready, f"{tally.name} is not ready:\n{tally.last_output()}", 90)
    ledger.wait_in_sync()


def test_kill_of_the_leading_tally(ledger, options):
    times = []
    with Load(ledger, "kill") as load:
        for _ in range(options.kills):
            settle(ledger)
            time.sleep(0.5)
            leader = ledger.leading_tally()
            begun = time.monotonic_ns()
            leader.kill()
            times.append(outage_s(load, begun))
            leader.start()
    ledger.histories.append(load.history())
    report(f"kill -9 of the leading Tally, {options.kills} times", summary(times))
    if options.bounds:
        assert statistics.median(times) <= KILL_MEDIAN_S and max(times) < KILL_MAX_S


def test_stop_of_the_leading_tally(ledger, options):
    times = []
    with Load(ledger, "stop") as load:
        for _ in range(max(3, options.kills // 2)):
            settle(ledger)
            time.sleep(0.5)
            leader = ledger.leading_tally()
            begun = time.monotonic_ns()
            leader.process.terminate()
            times.append(outage_s(load, begun))
            assert leader.stop() in (0, None)
            leader.start()
    ledger.histories.append(load.history())
    report("SIGTERM of the leading Tally", summary(times))
    if options.bounds:
        assert max(times) <= STOP_MAX_S


def test_rolling_restart(ledger):
    """Checks that no operation of a client that repeats its calls fails."""
    settle(ledger)
    with Load(ledger, "rolling") as load:
        for tally in ledger.tallys:
            tally.restart()
            settle(ledger)
            load.wait_for_progress()
    history = load.history()
    ledger.histories.append(history)
    assert not history.of("failed")
    slowest = max((line["done"] - line["sent"]) / 1e9 for line in history.acknowledged)
    report("rolling restart", f"{len(history.acknowledged)} transactions, none failed; the slowest took {slowest:.2f} s")


def test_paused_leader(ledger, options):
    """The leader is paused for seconds, and then continues as if it still led. It must not answer from its old state."""
    times = []
    with Load(ledger, "pause") as load:
        for pause_s in options.pauses:
            settle(ledger)
            leader = ledger.leading_tally()
            begun = time.monotonic_ns()
            leader.pause()
            times.append(outage_s(load, begun))
            time.sleep(max(0.0, pause_s - times[-1]))
            leader.resume()
            load.wait_for_progress()
            wait_until(leader.is_ready, f"{leader.name} is not ready after the pause:\n{leader.last_output()}")
    ledger.histories.append(load.history())
    report("SIGSTOP of the leading Tally", summary(times))


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_kill_of_a_broker(ledger, options, role):
    """The outage lasts for the session timeout of the brokers and an election. A dead follower stops acknowledgements, too."""
    times = []
    with Load(ledger, f"broker-{role}") as load:
        for _ in range(max(1, options.kills // 5)):
            settle(ledger)
            in_sync, leader = ledger.in_sync()
            number = leader if role == "leader" else next(number for number in in_sync if number != leader)
            broker = ledger.broker(number)
            begun = time.monotonic_ns()
            broker.kill()
            times.append(outage_s(load, begun))
            broker.start()
            ledger.wait_in_sync()
    ledger.histories.append(load.history())
    report(f"kill -9 of a broker, a {role} of the topic", summary(times))


def test_a_broker_that_is_cut_off_from_the_other_brokers(ledger):
    """The broker that is cut off still believes that it leads the topic, and answers the Tallys. The others have elected a new leader.

    The Tallys must find the new leader. They must not conclude from the shorter log of the old leader that records are lost.
    """
    with Load(ledger, "stale-broker") as load:
        settle(ledger)
        stale = ledger.leader()
        others = [broker for broker in ledger.brokers if broker is not stale]
        # All Tallys ask this broker first.
        for tally in ledger.tallys:
            tally.brokers = [broker.address for broker in (stale, *others)]
            tally.restart()
            settle(ledger)
        assert ledger.tally(1).brokers[0] == stale.address
        for other in others:
            ledger.network.cut(stale.name, other.name)
        begun = time.monotonic_ns()
        outage = outage_s(load, begun)
        # Every Tally makes new connections while the old leader still answers.
        for tally in ledger.tallys:
            tally.restart()
            load.wait_for_progress()
        for other in others:
            ledger.network.join(stale.name, other.name)
        ledger.wait_in_sync()
        load.wait_for_progress()
        settle(ledger)
    ledger.histories.append(load.history())
    report("a broker that is cut off from the others", f"{outage:.2f} s")


def test_a_tally_that_reaches_only_a_broker_that_is_cut_off(ledger):
    """A standby has read records from the new leader, and then reaches only the old leader, whose log is shorter. The standby must
    not conclude that records are lost."""
    with Load(ledger, "only-stale-broker") as load:
        settle(ledger)
        stale = ledger.leader()
        others = [broker for broker in ledger.brokers if broker is not stale]
        for tally in ledger.tallys:
            tally.brokers = [broker.address for broker in (*others, stale)]
            tally.restart()
            settle(ledger)
        if ledger.leader() is not stale:
            pytest.skip("another broker has become the leader meanwhile")
        for other in others:
            ledger.network.cut(stale.name, other.name)
        load.wait_for_progress()
        standby = next(tally for tally in ledger.tallys if tally is not ledger.leading_tally())
        wait_until(standby.is_ready, "the standby is not ready")
        load.wait_for_progress()
        for other in others:
            ledger.network.cut(standby.name, other.name)
        time.sleep(5)
        load.wait_for_progress()
        ledger.network.heal()
        assert "this replica has stopped" not in standby.last_output(400)
        settle(ledger)
        load.wait_for_progress()
    ledger.histories.append(load.history())
