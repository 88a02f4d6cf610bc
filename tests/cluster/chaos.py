"""Random faults, from a seed: processes that die or pause, links that are cut or slow, clocks that step.

Up to two faults are active at the same time. Every `ROUND_S` seconds, all faults end, and the clients must get answers again.
"""

import collections
import random
import time

from nodes import wait_until

ROUND_S = 30
# After the end of all faults, a transaction must be acknowledged within this time.
PROGRESS_S = 120
FAULTS_MAX = 2


class Fault:
    """One fault. `begin` starts it, `end` ends it, and no other fault may affect `nodes` between the two."""

    def __init__(self, name, nodes, begin, end, seconds):
        self.name, self.nodes, self.begin, self.end, self.seconds = name, set(nodes), begin, end, seconds


class Chaos:
    """Injects faults into a cluster. `clocks`: the clock of each Tally that a fault may step (see `clocks.py`), by the Tally's name."""

    def __init__(self, cluster, load, seed, clocks=None, pause_max_s=8.0):
        self.cluster, self.load, self.network = cluster, load, cluster.network
        self.random, self.clocks, self.pause_max_s = random.Random(seed), clocks or {}, pause_max_s
        self.counts = collections.Counter()
        # Pairs: the time at which a fault ends, and the fault.
        self.active = []
        self.log = open(cluster.directory / "faults.log", "w", buffering=1)
        self.slowest_recovery_s = 0.0
        kinds = {
            self.kill_tally: 14,
            self.stop_tally: 5,
            self.pause_tally: 12,
            self.kill_broker: 6,
            self.pause_broker: 5,
            self.cut_tally_from_brokers: 12,
            self.cut_tally_from_one_broker: 6,
            self.cut_tallys: 5,
            self.cut_brokers: 4,
            self.cut_broker_from_brokers: 4,
            self.isolate_tally: 4,
            self.isolate_broker: 3,
            self.cut_client: 3,
            self.delay_link: 6,
            self.kill_all_tallys: 2,
            self.kill_all_brokers: 1,
        }
        if self.clocks:
            kinds[self.step_clock] = 8
        self.kinds, self.weights = list(kinds), list(kinds.values())

    # ----- the schedule

    def run(self, seconds):
        """Injects faults for this time. Returns how many faults it injected, by their names."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.round(min(end, time.monotonic() + ROUND_S))
        return dict(self.counts)

    def round(self, until):
        while time.monotonic() < until:
            self.end_faults(due=time.monotonic())
            if len(self.active) < FAULTS_MAX:
                self.begin_fault()
            time.sleep(self.random.uniform(0.05, 0.8))
        self.end_faults()
        begun = time.monotonic_ns()
        done = self.load.wait_for_progress(begun, PROGRESS_S)
        self.slowest_recovery_s = max(self.slowest_recovery_s, (done - begun) / 1e9)
        self.note(f"progress after {(done - begun) / 1e9:.2f} s")
        for tally in self.cluster.tallys:
            assert tally.running, f"{tally.name} ended:\n{tally.last_output()}"

    def note(self, what):
        print(f"{time.monotonic():.3f} {time.strftime('%H:%M:%S', time.gmtime())} {what}", file=self.log)

    def begin_fault(self):
        busy = set().union(*(fault.nodes for _, fault in self.active))
        [kind] = self.random.choices(self.kinds, self.weights)
        fault = kind()
        if fault.nodes & busy or (self.touches_broker(fault.nodes) and self.touches_broker(busy)):
            return
        self.note(f"begin {fault.name}, {', '.join(sorted(fault.nodes))}, {fault.seconds:.2f} s")
        self.counts[fault.name] += 1
        fault.begin()
        self.active.append((time.monotonic() + fault.seconds, fault))

    @staticmethod
    def touches_broker(nodes):
        """Returns whether a broker is among the nodes. Only one fault affects brokers at a time: with two, no write is acknowledged."""
        return any(node.startswith("broker") for node in nodes)

    def end_faults(self, due=float("inf")):
        for entry in list(self.active):
            if entry[0] <= due:
                self.active.remove(entry)
                self.note(f"end {entry[1].name}, {', '.join(sorted(entry[1].nodes))}")
                entry[1].end()

    # ----- the nodes

    def some_tally(self, role=None):
        """Returns the leader or a standby, and a name for its role. Most faults concern the leader."""
        leader = self.cluster.leading_tally()
        role = role or self.random.choices(("leader", "standby"), (7, 3))[0]
        standbys = [tally for tally in self.cluster.tallys if tally is not leader]
        return (leader if role == "leader" else self.random.choice(standbys)), role

    def some_broker(self):
        return self.random.choice(self.cluster.brokers)

    def names(self, kind):
        return [name for name in self.cluster.names if name.startswith(kind)]

    # ----- the faults

    def fault(self, name, nodes, begin, end, low_s, high_s):
        return Fault(name, [node.name for node in nodes], begin, end, self.random.uniform(low_s, high_s))

    @staticmethod
    def start(node):
        if not node.running:
            node.start()

    def kill_tally(self):
        tally, role = self.some_tally()
        return self.fault(f"kill -9 of the {role}", [tally], tally.kill, lambda: self.start(tally), 0, 3)

    def stop_tally(self):
        tally, role = self.some_tally()
        return self.fault(f"SIGTERM to the {role}", [tally], tally.stop, lambda: self.start(tally), 0, 1)

    def pause_tally(self):
        tally, role = self.some_tally()
        return self.fault(f"pause of the {role}", [tally], tally.pause, tally.resume, 0.3, self.pause_max_s)

    def kill_broker(self):
        broker = self.some_broker()
        return self.fault("kill -9 of a broker", [broker], broker.kill, lambda: self.start(broker), 0, 4)

    def pause_broker(self):
        broker = self.some_broker()
        return self.fault("pause of a broker", [broker], broker.pause, broker.resume, 0.3, 5)

    def cuts(self, pairs, one_way):
        """Returns two functions: one cuts the links between these pairs of nodes, and one restores them."""

        def begin():
            for pair in pairs:
                self.network.cut(*pair, one_way=one_way)

        def end():
            for pair in pairs:
                self.network.join(*pair, one_way=one_way)

        return begin, end

    def cut(self, name, nodes, pairs, high_s=5):
        """Returns a fault that cuts links in both directions or in one of them, at random."""
        way = self.random.choice(("both ways", "to", "from"))
        pairs = [(there, here) for here, there in pairs] if way == "from" else pairs
        return self.fault(f"{name}, {way}", nodes, *self.cuts(pairs, way != "both ways"), 0.3, high_s)

    def cut_tally_from_brokers(self):
        tally, role = self.some_tally()
        pairs = [(tally.name, broker) for broker in self.names("broker")]
        return self.cut(f"cut between the {role} and all brokers", [tally], pairs)

    def cut_tally_from_one_broker(self):
        tally, role = self.some_tally()
        return self.cut(f"cut between the {role} and a broker", [tally], [(tally.name, self.some_broker().name)])

    def cut_tallys(self):
        tally, role = self.some_tally()
        pairs = [(tally.name, other) for other in self.names("tally") if other != tally.name]
        return self.cut(f"cut between the {role} and all other Tallys", [tally], pairs)

    def cut_brokers(self):
        broker, other = self.random.sample(self.cluster.brokers, 2)
        return self.cut("cut between two brokers", [broker, other], [(broker.name, other.name)])

    def cut_broker_from_brokers(self):
        """For a while, the broker that is cut off may believe that it still leads the topic, and answer its clients."""
        broker = self.some_broker()
        others = [other for other in self.cluster.brokers if other is not broker]
        pairs = [(broker.name, other.name) for other in others]
        return self.cut("cut between a broker and the other brokers", self.cluster.brokers, pairs, high_s=8)

    def isolate_tally(self):
        tally, role = self.some_tally()
        pairs = [(tally.name, other) for other in [*self.cluster.names, "client"] if other != tally.name]
        return self.cut(f"isolation of the {role}", [tally], pairs)

    def isolate_broker(self):
        broker = self.some_broker()
        pairs = [(broker.name, other) for other in [*self.cluster.names, "client"] if other != broker.name]
        return self.cut("isolation of a broker", [broker], pairs, high_s=4)

    def cut_client(self):
        tally, role = self.some_tally()
        return self.cut(f"cut between the clients and the {role}", [tally], [("client", tally.name)], high_s=3)

    def delay_link(self):
        tally, role = self.some_tally()
        other = self.random.choice([*self.names("broker"), "client"])
        milliseconds, loss = self.random.choice((5, 20, 100, 400)), self.random.choice((0, 1, 5))

        def begin():
            self.network.delay(tally.name, other, milliseconds, jitter_ms=milliseconds / 2, loss_percent=loss)

        def end():
            self.network.delay(tally.name, other, 0)

        return self.fault(f"delay of a link of the {role}", [tally], begin, end, 1, 5)

    def kill_all_tallys(self):
        def begin():
            for tally in self.cluster.tallys:
                tally.kill()

        def end():
            for tally in self.cluster.tallys:
                self.start(tally)

        return self.fault("kill -9 of all Tallys", self.cluster.tallys, begin, end, 0, 2)

    def kill_all_brokers(self):
        def begin():
            for broker in self.cluster.brokers:
                broker.kill()

        def end():
            for broker in self.cluster.brokers:
                self.start(broker)

        return self.fault("kill -9 of all brokers", self.cluster.brokers, begin, end, 0, 2)

    def step_clock(self):
        tally, role = self.some_tally()
        step_s = self.random.choice((-1, 1)) * self.random.choice((0.05, 0.7, 2, 20))
        clock = self.clocks[tally.name]
        name = f"step of the clock of the {role}"
        return self.fault(name, [tally], lambda: clock.set(step_s), lambda: clock.set(0), 1, 6)


def settle(cluster, timeout_s=90):
    """Waits until all nodes run, all brokers are in sync, and all Tallys have caught up."""
    cluster.wait_in_sync(timeout_s=timeout_s)
    for tally in cluster.tallys:
        wait_until(tally.is_ready, f"{tally.name} is not ready:\n{tally.last_output()}", timeout_s)
