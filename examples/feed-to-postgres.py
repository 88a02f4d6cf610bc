"""Copies the transfers of a Tally ledger to PostgreSQL, and follows the ledger. docs/analytics.md explains it.

Every transaction is stored once: the rows and the cursor change in the same SQL transaction, and a row that exists is left as it is.
"""

import argparse
import time

import grpc
import psycopg
from tally.v1 import transaction_service_pb2 as api
from tally.v1 import transaction_service_pb2_grpc as services
from tally.v1 import types_pb2 as types

SCHEMA = """
    CREATE TABLE IF NOT EXISTS ledger_cursor (
        is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
        sequence bigint NOT NULL
    );
    INSERT INTO ledger_cursor (sequence) VALUES (0) ON CONFLICT DO NOTHING;
    CREATE TABLE IF NOT EXISTS ledger_transfers (
        sequence bigint NOT NULL,
        transfer_index int NOT NULL,
        commit_time timestamptz NOT NULL,
        transaction_id text NOT NULL,
        phase text NOT NULL,
        debit_account_id text NOT NULL,
        credit_account_id text NOT NULL,
        posted numeric(39) NOT NULL,
        reserved numeric(39) NOT NULL,
        unreserved numeric(39) NOT NULL,
        released numeric(39) NOT NULL,
        pending_transaction_id text NOT NULL,
        reverses_transaction_id text NOT NULL,
        PRIMARY KEY (sequence, transfer_index)
    );
    CREATE INDEX IF NOT EXISTS ledger_transfers_debit ON ledger_transfers (debit_account_id, sequence);
    CREATE INDEX IF NOT EXISTS ledger_transfers_credit ON ledger_transfers (credit_account_id, sequence);
"""
INSERT = """
    INSERT INTO ledger_transfers VALUES (%s, %s, to_timestamp(%s), %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""
# Seconds between two looks for new transactions, and before a new attempt after an error.
INTERVAL_S = 1
# A call that gets no answer for this number of seconds has failed.
TIMEOUT_S = 30


def units(amount):
    """Returns an amount in minor units. Amounts beyond 63 bits come in two halves."""
    if amount.WhichOneof("value") == "wide_minor_units":
        return amount.wide_minor_units.high << 64 | amount.wide_minor_units.low
    return amount.minor_units


def rows(transaction):
    """Returns a row for each transfer of a transaction. PostgreSQL has microseconds."""
    committed = transaction.committed
    commit_time = committed.commit_time.ToMicroseconds() / 1_000_000
    phase = types.TransactionPhase.Name(transaction.phase).removeprefix("TRANSACTION_PHASE_")
    for index, effect in enumerate(transaction.effects):
        amounts = (effect.posted_amount, effect.reserved_amount, effect.unreserved_amount, effect.released_amount)
        yield (
            committed.sequence,
            index,
            commit_time,
            transaction.transaction_id,
            phase,
            effect.debit_account_id,
            effect.credit_account_id,
            *map(units, amounts),
            transaction.pending_transaction_id,
            transaction.reverses_transaction_id,
        )


def cursor_of(database):
    """Returns the sequence up to which everything is stored."""
    return database.execute("SELECT sequence FROM ledger_cursor").fetchone()[0]


def store(database, transactions, through):
    """Stores transactions, and notes that everything up to the sequence `through` is stored: both, or neither."""
    with database.transaction(), database.cursor() as cursor:
        cursor.executemany(INSERT, [row for transaction in transactions for row in rows(transaction)])
        cursor.execute("UPDATE ledger_cursor SET sequence = greatest(sequence, %s)", [through])


def catch_up(ledger, database):
    """Stores everything up to the newest durable transaction."""
    request = api.ListTransactionsRequest(from_sequence=cursor_of(database) + 1, page_size=1000)
    while True:
        page = ledger.ListTransactions(request, timeout=TIMEOUT_S)
        # The first page decides where the list ends, so a later page does not prove more than its transactions.
        last = [transaction.committed.sequence for transaction in page.transactions[-1:]]
        store(database, page.transactions, max(last, default=0))
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def follow(ledger, database):
    """Stores new transactions, for ever."""
    if not hasattr(ledger, "WatchTransactions"):
        while True:
            time.sleep(INTERVAL_S)
            catch_up(ledger, database)
    request = api.WatchTransactionsRequest(from_sequence=cursor_of(database) + 1)
    for response in ledger.WatchTransactions(request):
        # Everything up to this sequence was sent on this stream.
        store(database, response.transactions, response.durable_sequence)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", default="127.0.0.1:50051", help="HOST:PORT of the service")
    parser.add_argument("--database", default="", help="the connection string of PostgreSQL")
    parser.add_argument("--once", action="store_true", help="stop at the newest transaction instead of following the ledger")
    options = parser.parse_args()
    with psycopg.connect(options.database, autocommit=True) as database:
        database.execute(SCHEMA)
        ledger = services.TransactionServiceStub(grpc.insecure_channel(options.endpoint))
        while True:
            try:
                catch_up(ledger, database)
                if options.once:
                    return
                follow(ledger, database)
            except grpc.RpcError as error:
                if options.once:
                    raise
                print(f"{error.code().name}: {error.details()}; trying again", flush=True)
            time.sleep(INTERVAL_S)


if __name__ == "__main__":
    main()
