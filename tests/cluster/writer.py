"""A load on a topic: writes numbered records, and compares the topic with the acknowledgements."""

import functools
import threading
import uuid

from cluster import TOPIC
from nodes import wait_until

# Timeout of a write, on a broken link for example. After it, the outcome of the write is unknown.
MESSAGE_TIMEOUT_MS = 60_000


class Writer:
    """Writes one record after the other in a thread. Waits for the answer to each record before it writes the next.

    with Writer(cluster) as writer:
        cluster.leader().kill()
        writer.wait_for_progress()
    writer.check()
    """

    def __init__(self, cluster, topic=TOPIC, bytes_per_record=1024):
        self.cluster, self.topic = cluster, topic
        self.name = uuid.uuid4().hex[:8]
        self.filler = b"." * bytes_per_record
        self.begun = 0
        # Pairs: offset, number of the record.
        self.acknowledged = []
        self.unknown = []
        self.stopped = threading.Event()
        self.producer = cluster.producer(message_timeout_ms=MESSAGE_TIMEOUT_MS)
        self.thread = threading.Thread(target=self._run, name=f"writer-{self.name}", daemon=True)

    def __enter__(self):
        self.thread.start()
        self.wait_for_progress()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join()

    def _run(self):
        while not self.stopped.is_set():
            number = self.begun
            self.begun += 1
            self.producer.produce(self.topic, self._value(number), on_delivery=functools.partial(self._done, number))
            self.producer.flush(2 * MESSAGE_TIMEOUT_MS / 1000)

    def _value(self, number):
        return f"{self.name} {number} ".encode() + self.filler

    def _done(self, number, error, record):
        if error is None:
            self.acknowledged.append((record.offset(), number))
        else:
            self.unknown.append(number)

    def wait_for_progress(self, timeout_s=90):
        """Waits for the acknowledgement of a record that was written after this call."""
        first = self.begun

        def progress():
            assert self.thread.is_alive(), "the writer has ended"
            return self.acknowledged and self.acknowledged[-1][1] >= first

        wait_until(progress, f"no record after number {first} of {self.name} was acknowledged", timeout_s, every_s=0.01)

    def check(self):
        """Checks that each acknowledged record is in the topic exactly once, at its offset, in the order of writing."""
        end = max(offset for offset, _ in self.acknowledged) + 1
        records = dict(self.cluster.read(self.topic, at_least=end))
        own = f"{self.name} ".encode()
        written = [int(value.split()[1]) for value in records.values() if value.startswith(own)]
        assert len(written) == len(set(written)), f"records of {self.name} are in the topic twice"
        assert written == sorted(written), f"records of {self.name} are not in the order of writing"
        for offset, number in self.acknowledged:
            found = records.get(offset)
            assert found == self._value(number), (
                f"record {number} of {self.name} is not at offset {offset}, but {found and found[:40]}"
            )
        assert set(written) <= {number for _, number in self.acknowledged} | set(self.unknown)
