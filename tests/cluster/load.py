"""A load on the ledger that records all answers. Runs as a separate process, in the network of the clients.

    load.py HISTORY SEED WORKERS PAUSE_MS ENDPOINT...

Each worker makes one call after the other. It repeats a call with the same id at the next endpoint until it has a final answer. It
writes one line of JSON for each operation to the file HISTORY. All times are nanoseconds of the monotonic clock, which all
processes of a machine share. After SIGTERM, the load finishes the operations that have begun, and ends.

Kinds of operations (`kind`):
- `write`: a transaction, alone, in a batch or in a stream. It moves 1 from an account of the worker to the account `total`, so
  the balance of `total` is the number of executed writes.
- `hold`: reserves 1 for a short time. The expiry is another transaction, which the leader makes.
- `reject`: a transaction that the ledger must reject, because the account is empty.
- `again`: repeats a finished operation. The answer must be the same, and be marked as a replay.
- `read`: reads the balance of `total`.
- `watch`: the transactions in one response to a watcher of all transactions.
"""

import collections
import json
import pathlib
import random
import signal
import sys
import threading
import time

import grpc
from google.rpc import error_details_pb2, status_pb2
from messages import account_methods, accounts, transaction_methods, transactions, types

# Timeout of an attempt, after which the client tries the next endpoint: a paused process never answers.
ATTEMPT_TIMEOUT_S = 1.0
# Delay before the next attempt.
RETRY_DELAY_S = 0.02
# A stream ends after this time, and the client opens another one.
STREAM_TIMEOUT_S = 5.0
# An operation without a final answer after this time has failed.
GIVE_UP_S = 90
TOTAL, HELD, EMPTY = "total", "held", "empty"
# The endpoints are local, so a broken connection is tried again soon.
CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 100),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


class Failure(Exception):
    """An error. `executed` is "false", "unknown", or empty if the service did not answer."""

    def __init__(self, code, status):
        info = detail(status, error_details_pb2.ErrorInfo)
        super().__init__(f"{code} {info.reason} {status.message}")
        self.code, self.reason = code, info.reason
        self.executed, self.retry = info.metadata.get("executed", ""), info.metadata.get("retry", "")
        self.replayed, self.leader = info.metadata.get("replayed") == "true", info.metadata.get("leader")

    @staticmethod
    def of_call(error):
        details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
        status = status_pb2.Status.FromString(details)
        status.message = status.message or error.details() or ""
        return Failure(error.code().name, status)

    @property
    def is_final(self):
        return self.retry in ("no", "new_id")


def detail(status, detail_class):
    found = detail_class()
    for packed in status.details:
        if packed.Unpack(found):
            break
    return found


class Client:
    """An ordinary client: knows all endpoints, follows the leader, and repeats a call until it has a final answer."""

    def __init__(self, endpoints):
        self.endpoints = list(endpoints)
        channels = [grpc.insecure_channel(endpoint, options=CHANNEL) for endpoint in self.endpoints]
        self.services = [
            (transaction_methods.TransactionServiceStub(channel), account_methods.AccountServiceStub(channel))
            for channel in channels
        ]
        self.current = 0

    def attempt(self, service, method, request, endpoint):
        try:
            return getattr(self.services[endpoint][service], method)(request, timeout=ATTEMPT_TIMEOUT_S)
        except grpc.RpcError as error:
            raise Failure.of_call(error) from None

    def failed(self, endpoint, failure):
        """Selects another endpoint after `endpoint` has failed, unless another call has done so already."""
        if self.current == endpoint:
            leader = (failure.leader or "").partition("://")[2]
            known = leader in self.endpoints and self.endpoints.index(leader) != endpoint
            self.current = self.endpoints.index(leader) if known else (endpoint + 1) % len(self.endpoints)


class Call:
    """A call with all its attempts."""

    def __init__(self, client, stopped):
        self.client, self.stopped = client, stopped
        self.attempts, self.only_refused = 0, True
        self.begun = time.monotonic_ns()
        self.last_sent = self.done = self.begun
        self.endpoint = None
        self.failures = collections.Counter()

    def run(self, service, method, request, gives_up=False):
        """Returns the answer. Raises a failure that is final; with `gives_up`, raises any failure."""
        while True:
            self.endpoint = self.client.current
            self.attempts += 1
            self.last_sent = time.monotonic_ns()
            try:
                answer = self.client.attempt(service, method, request, self.endpoint)
                self.done = time.monotonic_ns()
                return answer
            except Failure as failure:
                self.done = time.monotonic_ns()
                if failure.executed != "false":
                    self.only_refused = False
                self.failures[f"{failure.code} {failure.reason}"] += 1
                if failure.is_final or gives_up or self.done - self.begun > GIVE_UP_S * 1e9:
                    raise
                self.client.failed(self.endpoint, failure)
                time.sleep(RETRY_DELAY_S)

    def facts(self):
        return {
            "sent": self.begun,
            "last_sent": self.last_sent,
            "done": self.done,
            "attempts": self.attempts,
            "endpoint": self.endpoint,
            "failures": dict(self.failures),
        }


class Worker(threading.Thread):
    """Makes one operation after the other."""

    def __init__(self, number, load):
        super().__init__(name=f"worker-{number}")
        self.number, self.load = number, load
        self.random = random.Random(f"{load.seed} {number}")
        self.count = 0
        self.finished = collections.deque(maxlen=500)

    def run(self):
        kinds = ("write", "batch", "stream", "hold", "reject", "again", "read")
        weights = (50, 8, 7, 5, 3, 7, 20)
        while not self.load.stopped.is_set():
            [kind] = self.random.choices(kinds, weights)
            try:
                getattr(self, kind)()
            except Failure as failure:
                self.load.note({"kind": "failed", "operation": kind, "what": str(failure), "done": time.monotonic_ns()})
            time.sleep(self.load.pause_s * self.random.uniform(0.5, 1.5))

    def call(self):
        return Call(self.load.client, self.load.stopped)

    def id(self):
        self.count += 1
        return f"{self.load.name}-{self.number}-{self.count}"

    def transaction(self, debit, credit, **fields):
        transfer = types.Transfer(debit_account_id=debit, credit_account_id=credit, minor_units=1, code=1)
        phase = fields.pop("phase", "TRANSACTION_PHASE_POSTED")
        return transactions.ProcessTransactionRequest(transaction_id=self.id(), phase=phase, transfers=[transfer], **fields)

    def send(self, kind, request):
        """Sends one transaction. Does not repeat one in five after a failure: `checker.py` checks that none of these was executed if it
        was refused."""
        call = self.call()
        line = {"kind": kind, "id": request.transaction_id}
        try:
            answer = call.run(0, "ProcessTransaction", request, gives_up=self.random.random() < 0.2)
            line |= {"out": "committed", "sequence": answer.sequence, "replayed": answer.replayed}
        except Failure as failure:
            final = failure.retry == "new_id"
            line |= {"out": "rejected" if final else "refused" if call.only_refused else "unknown", "what": str(failure)}
            line["final"] = failure.is_final
        self.load.note(line | call.facts())
        if line["out"] in ("committed", "rejected"):
            self.finished.append((request, line["out"], line.get("sequence")))

    def write(self):
        self.send("write", self.transaction(f"source-{self.number}", TOTAL))

    def hold(self):
        request = self.transaction(f"source-{self.number}", HELD, phase="TRANSACTION_PHASE_PENDING")
        request.pending_timeout.FromMilliseconds(self.random.randrange(50, 3000))
        self.send("hold", request)

    def reject(self):
        self.send("reject", self.transaction(EMPTY, TOTAL))

    def batch(self):
        """Sends several transactions in one call."""

        def attempt(endpoint, left):
            request = transactions.ProcessTransactionsRequest(transactions=left)
            return self.load.client.attempt(0, "ProcessTransactions", request, endpoint).results

        self.send_many(attempt)

    def stream(self):
        """Sends several transactions in a stream. The answers arrive one by one, and the stream can break after some of them."""

        def attempt(endpoint, left):
            method = self.load.client.services[endpoint][0].StreamTransactions
            requests = (transactions.StreamTransactionsRequest(transaction=request) for request in left)
            try:
                for answer in method(requests, timeout=STREAM_TIMEOUT_S):
                    yield answer.result
            except grpc.RpcError as error:
                raise Failure.of_call(error) from None

        self.send_many(attempt)

    def send_many(self, attempt):
        """Calls `attempt` with several transactions, and again with those that have no final answer, until all have one."""
        left = [self.transaction(f"source-{self.number}", TOTAL) for _ in range(self.random.randrange(2, 40))]
        call = self.call()
        while left:
            call.endpoint = self.load.client.current
            call.attempts += 1
            call.last_sent = time.monotonic_ns()
            answered, repeated, failure = 0, [], None
            try:
                for request, result in zip(left, attempt(call.endpoint, left)):
                    answered += 1
                    call.done = time.monotonic_ns()
                    assert request.transaction_id == result.transaction_id
                    failure = self.note_result(call, request, result) or failure
                    if failure:
                        repeated.append(request)
            except Failure as whole:
                failure = whole
            if failure:
                call.failures[f"{failure.code} {failure.reason}"] += 1
            left = repeated + left[answered:]
            if left:
                if (failure and failure.is_final) or time.monotonic_ns() - call.begun > GIVE_UP_S * 1e9:
                    raise failure
                self.load.client.failed(call.endpoint, failure or Failure("INCOMPLETE", status_pb2.Status()))
                time.sleep(RETRY_DELAY_S)

    def note_result(self, call, request, result):
        """Writes a line if the transaction, one of many in a call, was committed. Returns the failure if it was not."""
        if not result.HasField("committed"):
            status = status_pb2.Status.FromString(result.error.SerializeToString())
            return Failure(str(status.code), status)
        committed = result.committed
        line = {"kind": "write", "id": request.transaction_id, "many": True, "out": "committed"}
        self.load.note(line | {"sequence": committed.sequence, "replayed": committed.replayed} | call.facts())
        self.finished.append((request, "committed", committed.sequence))
        return None

    def again(self):
        if not self.finished:
            return
        request, out, sequence = self.random.choice(self.finished)
        call = self.call()
        line = {"kind": "again", "id": request.transaction_id}
        try:
            answer = call.run(0, "ProcessTransaction", request)
            is_same = out == "committed" and answer.sequence == sequence and answer.replayed
            what = f"committed {answer.sequence} replayed={answer.replayed}"
        except Failure as failure:
            is_same, what = out == "rejected" and failure.replayed, str(failure)
        line |= {"same": is_same, "what": f"{what}; before: {out} {sequence}"}
        self.load.note(line | call.facts())

    def read(self):
        call = self.call()
        answer = call.run(1, "GetAccount", accounts.GetAccountRequest(account_id=TOTAL))
        self.load.note({"kind": "read", "value": answer.account.balances.credits_posted.minor_units} | call.facts())


class Watcher(threading.Thread):
    """Receives all transactions from now on. When a stream breaks, opens another one that continues where the first ended."""

    def __init__(self, load):
        super().__init__(name="watcher")
        self.load = load
        self.next = None

    def run(self):
        endpoint = 0
        while not self.load.stopped.is_set():
            try:
                self.watch(self.load.client.services[endpoint][0])
            except grpc.RpcError:
                # Each replica has the whole ledger, or forwards the call.
                endpoint = (endpoint + 1) % len(self.load.client.services)
                time.sleep(RETRY_DELAY_S)

    def watch(self, service):
        if self.next is None:
            head = service.GetChainHead(transactions.GetChainHeadRequest(), timeout=ATTEMPT_TIMEOUT_S)
            self.next = head.sequence + 1
        request = transactions.WatchTransactionsRequest(from_sequence=self.next)
        for answer in service.WatchTransactions(request, timeout=STREAM_TIMEOUT_S):
            found = [(transaction.committed.sequence, transaction.transaction_id) for transaction in answer.transactions]
            if found:
                self.load.note({"kind": "watch", "from": self.next, "found": found, "done": time.monotonic_ns()})
            self.next = answer.durable_sequence + 1


class Load:
    def __init__(self, history, seed, workers, pause_ms, endpoints):
        self.seed, self.pause_s, self.client = seed, int(pause_ms) / 1000, Client(endpoints)
        self.name = pathlib.Path(history).stem
        self.stopped = threading.Event()
        self.file, self.lock = open(history, "w", buffering=1), threading.Lock()
        self.workers = [Worker(number, self) for number in range(int(workers))]
        self.watcher = Watcher(self)

    def note(self, line):
        with self.lock:
            print(json.dumps(line), file=self.file)

    def create_accounts(self):
        rules = {TOTAL: "UNLIMITED", HELD: "UNLIMITED", EMPTY: "CREDIT_BALANCE"}
        rules |= {f"source-{worker.number}": "UNLIMITED" for worker in self.workers}
        made = [
            accounts.CreateAccountRequest(account=types.Account(id=name, asset="EUR", balance_rule=f"BALANCE_RULE_{rule}"))
            for name, rule in rules.items()
        ]
        request = accounts.BatchCreateAccountsRequest(requests=made, skip_existing=True)
        Call(self.client, self.stopped).run(1, "BatchCreateAccounts", request)

    def run(self):
        signal.signal(signal.SIGTERM, lambda *_: self.stopped.set())
        self.create_accounts()
        # The balance is not 0 if another load has run before.
        read = Call(self.client, self.stopped).run(1, "GetAccount", accounts.GetAccountRequest(account_id=TOTAL))
        self.note({"kind": "begin", "value": read.account.balances.credits_posted.minor_units, "done": time.monotonic_ns()})
        for thread in (*self.workers, self.watcher):
            thread.start()
        for thread in (*self.workers, self.watcher):
            thread.join()
        self.note({"kind": "end", "done": time.monotonic_ns()})


if __name__ == "__main__":
    history, seed, workers, pause_ms, *endpoints = sys.argv[1:]
    Load(history, seed, workers, pause_ms, endpoints).run()
