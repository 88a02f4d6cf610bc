"""Runs the programs of docs/analytics.md as the page prints them: queries of an export in DuckDB, and the feed to PostgreSQL.

Needs the variables of tests/clients/run: TALLY_BINARY, and POSTGRES_BIN, the directory with the programs of PostgreSQL.
"""

import ast
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import psycopg
import pytest
from tally_client import Tally
from test_documented import ROOT, TIMEOUT_S, Server, run

PAGE = (ROOT / "docs/analytics.md").read_text()
FEED = ROOT / "examples/feed-to-postgres.py"
ACCOUNTS = ("bank", "alice", "shop")
# The user that PostgreSQL runs as if the tests run as root: PostgreSQL refuses to run as root.
POSTGRES_USER = "postgres"


def blocks(language):
    """Returns the code blocks of the page in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def add_transactions(tally, prefix, count):
    """Commits `count` payments, and a hold of which a part is posted."""
    process = "TransactionService.ProcessTransaction"

    def request(transaction_id, transfers, **fields):
        message = tally.message("ProcessTransactionRequest", transaction_id=f"{prefix}-{transaction_id}", **fields)
        for debit, credit, units in transfers:
            message.transfers.add(debit_account_id=debit, credit_account_id=credit, minor_units=units)
        return message

    for number in range(count):
        tally.call(process, request(number, [("bank", "alice", number + 1), ("alice", "shop", 1)]))
    tally.call(process, request("hold", [("alice", "shop", 9)], phase=2))
    tally.call(process, request("post", [("alice", "shop", 4)], phase=3, pending_transaction_id=f"{prefix}-hold"))


def balances(tally):
    """Returns the posted balance of each account: credits minus debits."""
    found = {}
    for account in tally.call("AccountService.ListAccounts").accounts:
        columns = account.balances
        found[account.id] = columns.credits_posted.minor_units - columns.debits_posted.minor_units
    return found


@pytest.fixture
def ledger(tmp_path):
    """A service with a few transactions, and its client."""
    server = Server(tmp_path)
    tally = Tally(server.endpoint)
    for account in ACCOUNTS:
        tally.call("AccountService.CreateAccount", account={"id": account, "asset": "EUR"})
    add_transactions(tally, "first", 20)
    yield server, tally
    server.stop()


def test_duckdb_computes_the_balances_from_an_export(ledger, tmp_path):
    server, tally = ledger
    [export, install] = blocks("sh")[0].splitlines()
    assert install == "pip install duckdb"
    binary = os.environ["TALLY_BINARY"]
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "tally").symlink_to(binary)
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "TALLY_ENDPOINT": f"http://{server.endpoint}"}
    run("sh", "-ec", export, cwd=tmp_path, env=environment)
    [program] = blocks("python")
    check = 'print(dict(ledger.sql("SELECT account_id, sum(change)::BIGINT FROM sides GROUP BY ALL").fetchall()))\n'
    (tmp_path / "program.py").write_text(program + check)
    done = run(sys.executable, "program.py", cwd=tmp_path)
    assert done.stdout.splitlines()[-1].count("'") == 2 * len(ACCOUNTS), done.stdout
    found = ast.literal_eval(done.stdout.splitlines()[-1])
    assert found == balances(tally)
    if parquet(environment, tmp_path):
        (tmp_path / "program.py").write_text(re.sub(r"read_csv\(.*?\}\)", "'ledger.parquet'", program, flags=re.DOTALL) + check)
        done = run(sys.executable, "program.py", cwd=tmp_path)
        assert ast.literal_eval(done.stdout.splitlines()[-1]) == balances(tally)


def parquet(environment, cwd):
    """Exports to Parquet. Returns false if this build can't write Parquet."""
    done = run("tally", "export", "--output", "ledger.parquet", cwd=cwd, env=environment, check=False)
    assert done.returncode == 0 or "this build can't write Parquet" in done.stderr, done.stderr
    return done.returncode == 0


class Postgres:
    """A PostgreSQL server with a new directory. It listens on a socket in this directory."""

    def __init__(self, home):
        self.home = pathlib.Path(home)
        self.programs = pathlib.Path(os.environ["POSTGRES_BIN"])
        self.user = {"user": POSTGRES_USER, "group": POSTGRES_USER, "extra_groups": []} if os.geteuid() == 0 else {}
        if self.user:
            shutil.chown(self.home, POSTGRES_USER, POSTGRES_USER)
        self.log = open(self.home / "log", "w")
        options = ["--no-sync", "--auth=trust", "--username=reports", "--encoding=UTF8", "--locale=C"]
        common = {"stdout": self.log, "stderr": self.log, "cwd": "/", **self.user}
        subprocess.run([self.programs / "initdb", *options, self.home / "data"], check=True, timeout=TIMEOUT_S, **common)
        arguments = ["-D", self.home / "data", "-k", self.home, "-c", "listen_addresses=", "-c", "fsync=off"]
        self.process = subprocess.Popen([self.programs / "postgres", *arguments], **common)
        self.url = f"postgresql:///postgres?host={self.home}&user=reports"
        for _ in range(1200):
            try:
                psycopg.connect(self.url).close()
                return
            except psycopg.OperationalError:
                assert self.process.poll() is None, (self.home / "log").read_text()
                time.sleep(0.05)
        raise AssertionError("PostgreSQL does not answer")

    def query(self, sql):
        with psycopg.connect(self.url, autocommit=True) as database:
            found = database.execute(sql)
            return found.fetchall() if found.description else []

    def stop(self):
        # For PostgreSQL, SIGINT means a fast shutdown, which does not wait for clients.
        self.process.send_signal(signal.SIGINT)
        self.process.wait(TIMEOUT_S)
        self.log.close()


@pytest.fixture
def postgres():
    # Not in pytest's temporary directory, which the user of PostgreSQL cannot enter.
    home = tempfile.mkdtemp(prefix="tally-postgres-")
    started = Postgres(home)
    yield started
    started.stop()
    shutil.rmtree(home)


@pytest.fixture
def feed(ledger, postgres, tmp_path):
    """Generates the code with the page's command. Returns the command of the feed, and its working directory and environment."""
    server, _ = ledger
    install, generate, command = blocks("sh")[1].splitlines()
    assert install.startswith("pip install ") and command.startswith("PYTHONPATH=. python examples/feed-to-postgres.py")
    (tmp_path / "proto").symlink_to(ROOT / "proto")
    run("sh", "-ec", generate, cwd=tmp_path, env={"PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"})
    arguments = [sys.executable, str(FEED), "--endpoint", server.endpoint, "--database", postgres.url]
    return arguments, {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(tmp_path)}}


def stored_balances(postgres):
    [sql] = blocks("sql")
    return {account: int(balance) for account, balance in postgres.query(sql)}


def wait_until(is_true, what):
    for _ in range(1200):
        if is_true():
            return
        time.sleep(0.05)
    raise AssertionError(what)


def test_postgres_has_every_transaction_once_and_follows_the_ledger(ledger, postgres, feed):
    _, tally = ledger
    command, options = feed
    once = [*command, "--once"]
    subprocess.run(once, check=True, timeout=TIMEOUT_S, **options)
    assert stored_balances(postgres) == balances(tally)
    rows = postgres.query("SELECT count(*) FROM ledger_transfers")
    pending = postgres.query("SELECT sum(reserved - unreserved - released) FROM ledger_transfers")
    assert int(pending[0][0]) == 0, "the hold has ended"

    # A second run stores no transaction twice, even if the cursor is lost.
    subprocess.run(once, check=True, timeout=TIMEOUT_S, **options)
    postgres.query("UPDATE ledger_cursor SET sequence = 0")
    subprocess.run(once, check=True, timeout=TIMEOUT_S, **options)
    assert postgres.query("SELECT count(*) FROM ledger_transfers") == rows

    # The feed follows the ledger, and is killed at an arbitrary moment.
    for prefix in ("second", "third"):
        follower = subprocess.Popen(command, **options)
        try:
            add_transactions(tally, prefix, 20)
            wait_until(lambda: stored_balances(postgres) == balances(tally), "the consumer does not follow the ledger")
        finally:
            follower.kill()
            follower.wait(TIMEOUT_S)
        add_transactions(tally, f"{prefix}-meanwhile", 5)
    subprocess.run(once, check=True, timeout=TIMEOUT_S, **options)
    assert stored_balances(postgres) == balances(tally)
    [(cursor, newest)] = postgres.query("SELECT sequence, (SELECT max(sequence) FROM ledger_transfers) FROM ledger_cursor")
    assert cursor == newest == tally.call("EngineService.GetBatchStats").ledger.last_sequence
