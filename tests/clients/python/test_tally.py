"""Tests of Tally with grpcio over reflection, against a running server.

TALLY_ENDPOINT is the address of the server, and TALLY_PID its process id. tests/clients/run sets both variables.
"""

import os
import pathlib
import uuid

import grpc
import pytest

from tally_client import Refused, Tally

TOO_LONG = "x" * 65
BAD_IDS = ["", TOO_LONG, "a b", "né"]
BAD_METADATA = [
    {f"k{number}": "v" for number in range(17)},
    {"k": "v" * 1024},
    {"": "v"},
    {TOO_LONG: "v"},
]


@pytest.fixture(scope="session")
def tally():
    return Tally(os.environ["TALLY_ENDPOINT"])


def new_id():
    return f"py-{uuid.uuid4()}"


@pytest.fixture(scope="session")
def accounts(tally):
    """Creates an issuer whose balance may be negative, and a wallet whose balance may not."""
    rules = {"issuer": "BALANCE_RULE_UNLIMITED", "wallet": "BALANCE_RULE_CREDIT_BALANCE"}
    ids = {name: f"{new_id()}:{name}" for name in rules}
    for name, rule in rules.items():
        tally.call("AccountService.CreateAccount", account=dict(id=ids[name], asset="EUR", balance_rule=rule))
    return ids


def transaction(tally, debit, credit, minor_units=100, **fields):
    transfer = dict(debit_account_id=debit, credit_account_id=credit, minor_units=minor_units, code=7)
    fields = {"transaction_id": new_id(), "transfers": [transfer], **fields}
    return tally.message("ProcessTransactionRequest", **fields)


def deposit(tally, accounts, **fields):
    return transaction(tally, accounts["issuer"], accounts["wallet"], **fields)


def overdraw(tally, accounts, **fields):
    return transaction(tally, accounts["wallet"], accounts["issuer"], minor_units=10**15, **fields)


def balance(tally, account_id):
    balances = tally.call("AccountService.GetAccount", account_id=account_id).account.balances
    return balances.credits_posted.minor_units - balances.debits_posted.minor_units


def refused(tally, method, request):
    with pytest.raises(Refused) as caught:
        tally.call(method, request)
    check_info(caught.value)
    return caught.value


def check_info(error):
    assert error.info.domain == "tally.v1"
    assert error.info.metadata["executed"] == "false"


# --- one transaction


def test_a_transaction_is_committed_and_moves_the_balances(tally, accounts):
    before = balance(tally, accounts["wallet"])
    request = deposit(tally, accounts, minor_units=250)
    response = tally.call("TransactionService.ProcessTransaction", request)
    assert response.transaction_id == request.transaction_id
    assert response.sequence > 0 and response.commit_time.seconds > 0 and not response.replayed
    assert balance(tally, accounts["wallet"]) == before + 250


def test_a_repetition_gets_the_first_result_and_moves_nothing(tally, accounts):
    request = deposit(tally, accounts)
    first = tally.call("TransactionService.ProcessTransaction", request)
    before = balance(tally, accounts["wallet"])
    again = tally.call("TransactionService.ProcessTransaction", request)
    assert again.replayed
    assert (again.sequence, again.commit_time) == (first.sequence, first.commit_time)
    assert balance(tally, accounts["wallet"]) == before


def test_an_id_cannot_be_used_for_other_content(tally, accounts):
    request = deposit(tally, accounts)
    tally.call("TransactionService.ProcessTransaction", request)
    request.transfers[0].minor_units += 1
    error = refused(tally, "TransactionService.ProcessTransaction", request)
    assert (error.code, error.info.reason) == (grpc.StatusCode.ALREADY_EXISTS, "TRANSACTION_ID_REUSED")
    assert error.info.metadata["transaction_id"] == request.transaction_id


def test_insufficient_funds_are_reported_again_for_the_same_id(tally, accounts):
    before = balance(tally, accounts["wallet"])
    request = overdraw(tally, accounts)
    for replayed in ("false", "true"):
        error = refused(tally, "TransactionService.ProcessTransaction", request)
        assert (error.code, error.info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_FUNDS")
        assert error.info.metadata["account_id"] == accounts["wallet"]
        assert error.info.metadata["replayed"] == replayed
    assert balance(tally, accounts["wallet"]) == before


def test_an_unknown_account_is_not_found(tally, accounts):
    request = transaction(tally, accounts["issuer"], new_id())
    error = refused(tally, "TransactionService.ProcessTransaction", request)
    assert (error.code, error.info.reason) == (grpc.StatusCode.NOT_FOUND, "ACCOUNT_NOT_FOUND")


# --- holds and reversals


class Card:
    """A card that may not be overdrawn, and a shop. Each transaction returns the balances after it."""

    def __init__(self, tally):
        self.tally = tally
        self.ids = {name: f"{new_id()}:{name}" for name in ("bank", "card", "shop")}
        for name, account_id in self.ids.items():
            rule = "BALANCE_RULE_UNLIMITED" if name == "bank" else "BALANCE_RULE_CREDIT_BALANCE"
            tally.call("AccountService.CreateAccount", account=dict(id=account_id, asset="EUR", balance_rule=rule))

    def request(self, phase, debit=None, credit=None, minor_units=0, **fields):
        accounts = dict(debit_account_id=self.ids.get(debit), credit_account_id=self.ids.get(credit))
        return self.tally.message(
            "ProcessTransactionRequest",
            transaction_id=new_id(),
            phase=f"TRANSACTION_PHASE_{phase}",
            transfers=[dict(accounts, minor_units=minor_units)] if debit else [],
            return_balances=True,
            **fields,
        )

    def process(self, *args, **fields):
        """Returns the id, the moved amounts, and the balances by the account's name: debits pending and posted, credits pending and
        posted."""
        request = self.request(*args, **fields)
        response = self.tally.call("TransactionService.ProcessTransaction", request)
        names = {account_id: name for name, account_id in self.ids.items()}
        columns = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")
        balances = {
            names[account.account_id]: tuple(getattr(account.balances, column).minor_units for column in columns)
            for account in response.balances
        }
        return request.transaction_id, [amount.minor_units for amount in response.moved_amounts], balances

    def state(self, transaction_id):
        found = self.tally.call("TransactionService.GetTransaction", transaction_id=transaction_id).transaction
        state = found.DESCRIPTOR.fields_by_name["hold_state"].enum_type.values_by_number[found.hold_state].name
        amounts = [[amount.minor_units for amount in of] for of in (found.posted_amounts, found.remaining_amounts)]
        return state, *amounts, found.ended_by


def test_a_card_payment_is_authorized_increased_captured_in_parts_and_refunded(tally):
    card = Card(tally)
    card.process("POSTED", "bank", "card", 1000)
    authorized, moved, balances = card.process("PENDING", "card", "shop", 600)
    assert (moved, balances) == ([], {"card": (600, 0, 0, 1000), "shop": (0, 0, 600, 0)})
    increased, _, balances = card.process("PENDING", "card", "shop", 100)
    assert balances == {"card": (700, 0, 0, 1000), "shop": (0, 0, 700, 0)}
    available = tally.call("AccountService.GetAccount", account_id=card.ids["card"]).account.available
    assert available.minor_units == 300

    post = dict(pending_transaction_id=authorized)
    _, moved, balances = card.process("POST_PENDING", "card", "shop", 250, keep_remaining=True, **post)
    assert (moved, balances) == ([250], {"card": (450, 250, 0, 1000), "shop": (0, 0, 450, 250)})
    assert card.state(authorized) == ("HOLD_STATE_PENDING", [250], [350], "")
    captured, moved, balances = card.process("POST_PENDING", **post)
    assert (moved, balances) == ([350], {"card": (100, 600, 0, 1000), "shop": (0, 0, 100, 600)})
    assert card.state(authorized) == ("HOLD_STATE_POSTED", [600], [0], captured)
    error = refused(tally, "TransactionService.ProcessTransaction", card.request("POST_PENDING", **post))
    assert (error.code, error.info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PENDING_ALREADY_POSTED")

    holds = tally.call("AccountService.ListHolds", account_id=card.ids["card"]).holds
    assert [hold.transaction_id for hold in holds] == [increased]
    released, moved, balances = card.process("VOID_PENDING", pending_transaction_id=increased)
    assert (moved, balances) == ([], {"card": (0, 600, 0, 1000), "shop": (0, 0, 0, 600)})
    assert card.state(increased) == ("HOLD_STATE_VOIDED", [0], [0], released)

    reverse = dict(reverses_transaction_id=captured)
    first, moved, balances = card.process("POSTED", "shop", "card", 50, **reverse)
    assert (moved, balances) == ([50], {"shop": (0, 50, 0, 600), "card": (0, 600, 0, 1050)})
    error = refused(tally, "TransactionService.ProcessTransaction", card.request("POSTED", "shop", "card", 301, **reverse))
    assert (error.info.reason, error.info.metadata["available"]) == ("ALREADY_REVERSED", "300")
    second, moved, balances = card.process("POSTED", **reverse)
    assert (moved, balances) == ([300], {"shop": (0, 350, 0, 600), "card": (0, 600, 0, 1350)})
    found = tally.call("TransactionService.GetTransaction", transaction_id=captured).transaction
    assert list(found.reversed_by) == [first, second]


def test_an_account_is_frozen_and_opened_again(tally):
    card = Card(tally)

    def update(status, **fields):
        account = dict(id=card.ids["card"], status=f"ACCOUNT_STATUS_{status}", **fields)
        request = tally.message("UpdateAccountRequest", account=account, update_mask=dict(paths=["status"]))
        return tally.call("AccountService.UpdateAccount", request).account

    etag = update("DEBITS_FROZEN").etag
    card.process("POSTED", "bank", "card", 10)
    error = refused(tally, "TransactionService.ProcessTransaction", card.request("POSTED", "card", "shop", 1))
    assert (error.code, error.info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ACCOUNT_FROZEN")
    assert update("OPEN", etag=etag).etag != etag
    with pytest.raises(Refused) as caught:
        update("FROZEN", etag=etag)
    assert (caught.value.code, caught.value.info.reason) == (grpc.StatusCode.ABORTED, "ACCOUNT_CHANGED")
    card.process("POSTED", "card", "shop", 1)


def test_after_an_expired_deadline_nothing_is_executed(tally, accounts):
    request = deposit(tally, accounts)
    # Not with grpcio, which rounds the timeout up to a millisecond, and after the timeout does not wait for the server's reply.
    error = tally.refusal_with_headers("TransactionService.ProcessTransaction", request, {"grpc-timeout": "1n"})
    assert (error.code, error.info.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "EXPIRED_IN_QUEUE")
    check_info(error)
    get = tally.message("GetTransactionRequest", transaction_id=request.transaction_id)
    error = refused(tally, "TransactionService.GetTransaction", get)
    assert (error.code, error.info.reason) == (grpc.StatusCode.NOT_FOUND, "TRANSACTION_NOT_FOUND")


def test_a_malformed_deadline_is_an_invalid_argument(tally, accounts):
    request = deposit(tally, accounts)
    error = tally.refusal_with_headers("TransactionService.ProcessTransaction", request, {"grpc-timeout": "1 s"})
    assert (error.code, error.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["grpc-timeout"])


# --- malformed fields; each row: the path of a field, its value, the name of the field in the error

TRANSACTION_CASES = [
    *[("transaction_id", bad, "transaction_id") for bad in BAD_IDS[:3]],
    ("phase", 99, "phase"),
    ("transfers", [], "transfers"),
    ("transfers", [{}] * 257, "transfers"),
    ("pending_transaction_id", "p1", "pending_transaction_id"),
    ("pending_timeout.seconds", 5, "pending_timeout"),
    ("effective_time.seconds", 253_402_300_800, "effective_time.seconds"),
    ("effective_time.seconds", -62_135_596_801, "effective_time.seconds"),
    ("effective_time.nanos", 1_000_000_000, "effective_time.nanos"),
    ("effective_time.nanos", -1, "effective_time.nanos"),
    *[("metadata", bad, "metadata") for bad in BAD_METADATA],
    *[("transfers.0.debit_account_id", bad, "transfers[0].debit_account_id") for bad in BAD_IDS],
    *[("transfers.0.credit_account_id", bad, "transfers[0].credit_account_id") for bad in BAD_IDS],
    ("transfers.0.amount", None, "transfers[0].amount"),
    ("transfers.0.minor_units", 0, "transfers[0].minor_units"),
    ("transfers.0.minor_units", -1, "transfers[0].minor_units"),
    ("transfers.0.wide_minor_units.low", 0, "transfers[0].wide_minor_units"),
    ("transfers.0.code", -1, "transfers[0].code"),
    ("transfers.0.amount_rule", 9, "transfers[0].amount_rule"),
    ("keep_remaining", True, "keep_remaining"),
    ("reverses_transaction_id", "a b", "reverses_transaction_id"),
    ("transfers.1.code", -1, "transfers[1].code"),
]

ACCOUNT_CASES = [
    ("account", None, "account"),
    *[("account.id", bad, "account.id") for bad in BAD_IDS],
    *[("account.asset", bad, "account.asset") for bad in ["", "x" * 17, "a b"]],
    ("account.balance_rule", 9, "account.balance_rule"),
    ("account.overdraft_limit.minor_units", -1, "account.overdraft_limit.minor_units"),
    ("account.balance_rule", 1, "account.overdraft_limit"),
    ("account.status", 9, "account.status"),
    *[("account.metadata", bad, "account.metadata") for bad in BAD_METADATA],
    ("account.balances.debits_posted.minor_units", 1, "account.balances"),
    ("account.create_time.seconds", 1, "account.create_time"),
    ("account.available.minor_units", 1, "account.available"),
    ("account.etag", "r0", "account.etag"),
    ("account.velocity_limits", [{}] * 5, "account.velocity_limits"),
    ("account.velocity_limits", [dict(side=1)], "account.velocity_limits[0]"),
    ("account.velocity_limits", [dict(side=1, max_count=1)], "account.velocity_limits[0].window"),
]

# Fields in which every value is valid.
ALWAYS_VALID = ["return_balances"]

OTHER_CASES = [
    ("TransactionService.ProcessTransactions", "transactions", [], "transactions"),
    ("TransactionService.ProcessTransactions", "transactions", [{}] * 8193, "transactions"),
    ("TransactionService.GetTransaction", "transaction_id", "", "transaction_id"),
    ("TransactionService.GetTransaction", "transaction_id", TOO_LONG, "transaction_id"),
    ("AccountService.BatchCreateAccounts", "requests", [], "requests"),
    ("AccountService.BatchCreateAccounts", "requests", [{}] * 1001, "requests"),
    ("AccountService.BatchCreateAccounts", "requests", [{}], "requests[0].account"),
    ("AccountService.GetAccount", "account_id", "", "account_id"),
    ("AccountService.GetAccount", "account_id", "a b", "account_id"),
    ("AccountService.ListAccounts", "page_size", -1, "page_size"),
    ("AccountService.ListAccounts", "page_size", 1001, "page_size"),
    ("AccountService.ListAccounts", "page_token", "bogus", "page_token"),
    ("AccountService.ListAccounts", "page_token", "a01", "page_token"),
    ("AccountService.ListAccounts", "id_prefix", "a b", "id_prefix"),
    ("AccountService.ListAccounts", "asset", "x" * 17, "asset"),
    ("AccountService.ListAccounts", "status", 9, "status"),
    ("AccountService.ListHolds", "account_id", "a b", "account_id"),
    ("AccountService.ListHolds", "state", 3, "state"),
    ("AccountService.ListHolds", "page_size", 1001, "page_size"),
    ("AccountService.ListHolds", "page_token", "h0", "page_token"),
    ("AccountService.UpdateAccount", "account", None, "account"),
]


def put(message, path, value):
    """Sets the field at `path` to `value`; None clears the field. A number in the path is an index; a list that is too short grows."""
    *parents, last = path.split(".")
    for step in parents:
        if step.isdigit():
            while len(message) <= int(step):
                message.add().CopyFrom(message[0])
            message = message[int(step)]
        else:
            message = getattr(message, step)
    if value is None:
        oneof = message.WhichOneof(last) if last in message.DESCRIPTOR.oneofs_by_name else last
        message.ClearField(oneof)
    elif isinstance(value, list):
        message.ClearField(last)
        for item in value:
            getattr(message, last).add(**item)
    elif isinstance(value, dict):
        getattr(message, last).update(value)
    else:
        # Makes the message present even if the value is zero.
        message.SetInParent()
        setattr(message, last, value)


def name_of(value):
    return value if isinstance(value, str) and len(value) < 50 else repr(value)[:20]


@pytest.mark.parametrize("path, value, field", TRANSACTION_CASES, ids=name_of)
def test_a_malformed_transaction_field_is_named(tally, accounts, path, value, field):
    request = deposit(tally, accounts)
    put(request, path, value)
    error = refused(tally, "TransactionService.ProcessTransaction", request)
    assert (error.code, error.info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert field in error.fields
    if value != [{}] * 257:
        assert error.fields == [field]


@pytest.mark.parametrize("path, value, field", ACCOUNT_CASES, ids=name_of)
def test_a_malformed_account_field_is_named(tally, path, value, field):
    account = dict(id=new_id(), asset="EUR", balance_rule="BALANCE_RULE_DEBIT_BALANCE", overdraft_limit=dict(minor_units=5))
    request = tally.message("CreateAccountRequest", account=account)
    put(request, path, value)
    error = refused(tally, "AccountService.CreateAccount", request)
    assert (error.code, error.info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert error.fields == [field]


@pytest.mark.parametrize("method, path, value, field", OTHER_CASES, ids=name_of)
def test_any_other_malformed_field_is_named(tally, method, path, value, field):
    request = tally.method(method)[1]()
    put(request, path, value)
    error = refused(tally, method, request)
    assert (error.code, error.info.reason, error.fields) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", [field])


def test_the_tables_of_malformed_fields_contain_every_field(tally):
    for message, cases, prefix in [
        ("ProcessTransactionRequest", TRANSACTION_CASES, ""),
        ("Transfer", TRANSACTION_CASES, "transfers.0."),
        ("Account", ACCOUNT_CASES, "account."),
        ("ListAccountsRequest", [case[1:] for case in OTHER_CASES], ""),
        ("ListHoldsRequest", [case[1:] for case in OTHER_CASES], ""),
    ]:
        paths = [path for path, _, _ in cases] + ALWAYS_VALID
        for field in tally.message(message).DESCRIPTOR.fields:
            assert any(path.startswith(prefix + field.name) for path in paths), f"{message}.{field.name}"


# --- many transactions


def mixed(tally, accounts):
    """Returns requests with their expected results: the reason of an error, or None for a committed transaction."""
    good = deposit(tally, accounts)
    reused = deposit(tally, accounts, transaction_id=good.transaction_id, minor_units=1)
    malformed = deposit(tally, accounts, transaction_id="a b")
    return [
        (good, None),
        (overdraw(tally, accounts), "INSUFFICIENT_FUNDS"),
        (malformed, "INVALID_FIELD"),
        (reused, "TRANSACTION_ID_REUSED"),
        (transaction(tally, new_id(), accounts["wallet"]), "ACCOUNT_NOT_FOUND"),
        (deposit(tally, accounts, phase="TRANSACTION_PHASE_EXPIRE_PENDING"), "INVALID_FIELD"),
        (good, None),
        (deposit(tally, accounts), None),
    ]


def check_mixed(expected, results):
    assert [result.transaction_id for result in results] == [request.transaction_id for request, _ in expected]
    for result, (_, reason) in zip(results, expected, strict=True):
        if reason is None:
            assert result.WhichOneof("outcome") == "committed", result
        else:
            assert result.WhichOneof("outcome") == "error", result
            error = Refused.of_value(result.error)
            check_info(error)
            assert error.info.reason == reason
    assert [result.committed.replayed for result, (_, reason) in zip(results, expected) if reason is None] == [
        False,
        True,
        False,
    ]


def test_many_transactions_have_one_result_each_in_order(tally, accounts):
    expected = mixed(tally, accounts)
    response = tally.call("TransactionService.ProcessTransactions", transactions=[request for request, _ in expected])
    check_mixed(expected, response.results)


def test_a_stream_returns_results_in_order(tally, accounts):
    expected = mixed(tally, accounts)
    requests = [tally.message("StreamTransactionsRequest", transaction=request) for request, _ in expected]
    responses = tally.stream("TransactionService.StreamTransactions", requests)
    check_mixed(expected, [response.result for response in responses])


def test_a_long_stream_returns_all_results_in_order_with_a_rising_sequence(tally, accounts):
    requests = [
        tally.message("StreamTransactionsRequest", transaction=deposit(tally, accounts)) for _ in range(2000)
    ]
    responses = tally.stream("TransactionService.StreamTransactions", requests)
    assert [r.result.transaction_id for r in responses] == [r.transaction.transaction_id for r in requests]
    sequences = [response.result.committed.sequence for response in responses]
    assert sequences == list(range(sequences[0], sequences[0] + len(requests)))


# --- reading


def test_a_transaction_is_returned_as_it_was_sent(tally, accounts):
    request = deposit(tally, accounts, metadata={"order": "17"})
    request.effective_time.seconds = 726_019_200
    wide = request.transfers.add(debit_account_id=accounts["issuer"], credit_account_id=accounts["wallet"])
    wide.wide_minor_units.low = 3
    committed = tally.call("TransactionService.ProcessTransaction", request)
    found = tally.call("TransactionService.GetTransaction", transaction_id=request.transaction_id).transaction
    assert found.committed == committed
    assert found.effective_time == request.effective_time and found.metadata == request.metadata
    assert found.transfers[0] == request.transfers[0]
    # An amount that fits 63 bits is returned in the 64-bit field, whichever field was sent.
    assert found.transfers[1].minor_units == 3


def test_a_rejected_transaction_is_returned_with_its_reason(tally, accounts):
    request = overdraw(tally, accounts)
    refused(tally, "TransactionService.ProcessTransaction", request)
    found = tally.call("TransactionService.GetTransaction", transaction_id=request.transaction_id).transaction
    assert Refused.of_value(found.error).info.reason == "INSUFFICIENT_FUNDS"


def test_an_amount_beyond_63_bits_is_returned_completely(tally):
    ids = [new_id(), new_id()]
    requests = [dict(account=dict(id=account_id, asset="ETH-wei")) for account_id in ids]
    tally.call("AccountService.BatchCreateAccounts", requests=requests)
    request = transaction(tally, *ids)
    request.transfers[0].wide_minor_units.high = 5
    request.transfers[0].wide_minor_units.low = 6
    tally.call("TransactionService.ProcessTransaction", request)
    credits = tally.call("AccountService.GetAccount", account_id=ids[1]).account.balances.credits_posted
    assert (credits.wide_minor_units.high, credits.wide_minor_units.low) == (5, 6)


def test_an_account_is_created_once(tally):
    account = dict(id=new_id(), asset="EUR", metadata={"owner": "x"})
    first = tally.call("AccountService.CreateAccount", account=account).account
    assert tally.call("AccountService.CreateAccount", account=account).account == first
    other = tally.message("CreateAccountRequest", account={**account, "asset": "USD"})
    error = refused(tally, "AccountService.CreateAccount", other)
    assert (error.code, error.info.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ACCOUNT_ID_REUSED")


def test_pages_of_accounts_have_no_gap_and_no_repetition(tally):
    requests = [dict(account=dict(id=new_id(), asset="EUR")) for _ in range(25)]
    created = [account.id for account in tally.call("AccountService.BatchCreateAccounts", requests=requests).accounts]
    listed, token = [], ""
    while True:
        page = tally.call("AccountService.ListAccounts", page_size=10, page_token=token)
        assert len(page.accounts) <= 10
        listed += [account.id for account in page.accounts]
        token = page.next_page_token
        if not token:
            break
    assert len(listed) == len(set(listed))
    assert listed[-len(created) :] == created


# --- the state of the engine


def test_circuit_stats_count_the_calls(tally, accounts):
    def circuits():
        stats = tally.call("EngineService.GetCircuitStats").circuits
        assert len({circuit.key for circuit in stats}) == len(stats)
        return {circuit.key: circuit for circuit in stats}

    before = circuits()
    tally.call("TransactionService.ProcessTransaction", deposit(tally, accounts))
    after = circuits()
    # The call passed one circuit, which is closed.
    (key,) = [key for key in after if after[key].totals.admitted != before[key].totals.admitted]
    assert after[key].totals.admitted == before[key].totals.admitted + 1
    states = tally.pool.FindEnumTypeByName("tally.v1.CircuitState").values_by_name
    assert after[key].state == states["CIRCUIT_STATE_CLOSED"].number


def test_batch_stats_count_the_transactions(tally, accounts):
    before = tally.call("EngineService.GetBatchStats").ledger
    committed = tally.call("TransactionService.ProcessTransaction", deposit(tally, accounts))
    after = tally.call("EngineService.GetBatchStats")
    assert after.ledger.committed == before.committed + 1
    assert after.ledger.last_sequence == committed.sequence
    assert after.replies_missing == 0 and after.unknown_outcomes == 0


def test_the_topology_agrees_with_the_kernel(tally):
    topology = tally.call("EngineService.GetTopology")
    tasks = pathlib.Path("/proc", os.environ["TALLY_PID"], "task")
    for thread in topology.threads:
        lines = (tasks / str(thread.tid) / "status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        assert status["Name"] == thread.name[:15]
        assert status["Cpus_allowed_list"] == thread.actual_cpus
        if topology.decision.effect == "pin":
            assert thread.pinned and thread.wanted_cpus == thread.actual_cpus, thread
    assert {"EXEC", "WAL", "NET", "AUX"} <= {thread.role for thread in topology.threads}
    # The reply contains all threads of the service whose names begin with `tally`. Only the short-lived threads of a runtime's blocking
    # pool have other names.
    ours = {int(task.name) for task in tasks.iterdir() if (task / "comm").read_text().startswith("tally")}
    assert ours == {thread.tid for thread in topology.threads}


def test_health_is_serving(tally):
    for service in ["", "tally.v1.TransactionService", "tally.v1.AccountService", "tally.v1.EngineService"]:
        response = tally.call("grpc.health.v1.Health.Check", service=service)
        assert response.status == response.ServingStatus.Value("SERVING"), service
