"""Holds back the packets of a netfilter queue for a time, as `tc netem delay` does.

    delay.py QUEUE MILLISECONDS JITTER_MS LOSS_PERCENT

Needs only the kernel module nfnetlink_queue. Packets keep their order. The packets stay in the kernel: this program receives only
their numbers, and tells the kernel when to deliver each packet.
"""

import collections
import os
import random
import select
import socket
import struct
import sys
import time

NETLINK_NETFILTER = 12
QUEUE_SUBSYSTEM = 3 << 8
PACKET, VERDICT, CONFIG = 0, 1, 2
REQUEST, ACKNOWLEDGE = 1, 4
COMMAND, PARAMETERS, QUEUE_LENGTH = 1, 2, 3
PACKET_HEADER, VERDICT_HEADER = 1, 2
BIND, COPY_META = 1, 1
DROP, ACCEPT = 0, 1
# What this program prints when the queue is bound.
READY = "ready"
# The maximum number of packets that the kernel holds for this program. The kernel drops further packets.
PACKETS_MAX = 100_000


def attribute(kind, payload):
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + b"\0" * (-length % 4)


def message(kind, queue, attributes, flags=REQUEST):
    body = struct.pack(">BBH", 0, 0, queue) + attributes
    return struct.pack("=IHHII", 16 + len(body), QUEUE_SUBSYSTEM | kind, flags, 0, 0) + body


def configure(netlink, queue, kind, payload):
    """Configures the queue, and waits for the kernel's answer. No packet arrives before it, so the next message is the answer."""
    netlink.send(message(CONFIG, queue, attribute(kind, payload), REQUEST | ACKNOWLEDGE))
    code = -struct.unpack_from("=i", netlink.recv(4096), 16)[0]
    if code:
        sys.exit(f"queue {queue}: {os.strerror(code)}")


def packet_numbers(data):
    """Returns the numbers of the packets in a message from the kernel."""
    at = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if length < 16:
            return
        if kind == QUEUE_SUBSYSTEM | PACKET:
            inner, end = at + 20, at + length
            while inner + 4 <= end:
                size, name = struct.unpack_from("=HH", data, inner)
                if name & 0x3FFF == PACKET_HEADER:
                    yield struct.unpack_from(">I", data, inner + 4)[0]
                    break
                inner += (size + 3) & ~3
        at += (length + 3) & ~3


def main(queue, delay_s, jitter_s, loss):
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    netlink.bind((0, 0))
    configure(netlink, queue, COMMAND, struct.pack(">BBH", BIND, 0, 0))
    configure(netlink, queue, PARAMETERS, struct.pack(">IB", 0, COPY_META))
    configure(netlink, queue, QUEUE_LENGTH, struct.pack(">I", PACKETS_MAX))
    print(READY, flush=True)
    held = collections.deque()
    last = 0.0
    while True:
        now = time.monotonic()
        while held and held[0][0] <= now:
            _, number, verdict = held.popleft()
            netlink.send(message(VERDICT, queue, attribute(VERDICT_HEADER, struct.pack(">II", verdict, number))))
        wait_s = max(0.0, held[0][0] - time.monotonic()) if held else None
        if not select.select([netlink], [], [], wait_s)[0]:
            continue
        try:
            data = netlink.recv(1 << 20)
        except OSError:
            # The receive buffer overflowed, and the kernel dropped packets. To the nodes, this looks like any lost packet.
            continue
        now = time.monotonic()
        for number in packet_numbers(data):
            due = max(last, now + delay_s + random.uniform(-jitter_s, jitter_s))
            last = due
            held.append((due, number, DROP if random.random() < loss else ACCEPT))


if __name__ == "__main__":
    queue, milliseconds, jitter_ms, loss_percent = (float(argument) for argument in sys.argv[1:])
    main(int(queue), milliseconds / 1000, jitter_ms / 1000, loss_percent / 100)
