"""Runs the commands of docs/operations.md for a backup and a restore without Kubernetes, as the page prints them."""

import os
import re
import subprocess
import uuid

import pytest

from tally_client import Refused, Tally
from test_documented import ROOT, Server

def commands(heading):
    """Returns the commands of a section."""
    text = (ROOT / "docs/operations.md").read_text()
    [section] = re.findall(rf"^### {heading}\n(.*?)^##", text, re.MULTILINE | re.DOTALL)
    [block] = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return block.splitlines()


class Machine:
    """Imitates a machine with the service. All directories of this machine are below `home`."""

    def __init__(self, home):
        self.home = home
        for directory in ("var/lib/tally", "backup", "bin"):
            (home / directory).mkdir(parents=True)
        (home / "bin/tally").symlink_to(os.environ["TALLY_BINARY"])
        self.server = None
        self.start()

    def start(self):
        self.server = Server(self.home, "--data", str(self.home / "var/lib/tally/ledger"))

    def stop(self):
        self.server.stop()
        self.server = None

    def run(self, lines):
        """Runs each command. Stops or starts the service for the lines with `systemctl`."""
        for line in lines:
            if line in ("systemctl stop tally", "systemctl start tally"):
                {"stop": self.stop, "start": self.start}[line.split()[1]]()
                continue
            line = line.replace("/var/lib", f"{self.home}/var/lib").replace("/backup", f"{self.home}/backup")
            path = f"{self.home}/bin:{os.environ['PATH']}"
            done = subprocess.run(["sh", "-ec", line], env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, (line, done.stdout, done.stderr)
            if line.startswith("tally verify"):
                assert done.stdout.splitlines()[-1].endswith("sound"), done.stdout


@pytest.fixture
def machine(tmp_path):
    made = Machine(tmp_path)
    yield made
    if made.server:
        made.stop()


def pay(tally, transaction_id):
    request = tally.message("ProcessTransactionRequest", transaction_id=transaction_id)
    request.transfers.add(debit_account_id="bank", credit_account_id="alice", minor_units=1)
    return tally.call("TransactionService.ProcessTransaction", request)


def test_a_backup_is_restored_without_kubernetes(machine):
    tally = Tally(machine.server.endpoint)
    for name in ("bank", "alice"):
        tally.call("AccountService.CreateAccount", account={"id": name, "asset": "EUR"})
    before, after = f"before-{uuid.uuid4()}", f"after-{uuid.uuid4()}"
    pay(tally, before)
    backup = commands("Back up without Kubernetes")
    assert len(backup) == 5
    machine.run(backup)
    pay(Tally(machine.server.endpoint), after)
    copy = machine.home / "backup/ledger-2026-11-24"
    content = {path: path.read_bytes() for path in sorted(copy.rglob("*")) if path.is_file()}
    machine.run(commands("Restore without Kubernetes"))
    tally = Tally(machine.server.endpoint)
    # A transaction from before the backup is a replay. A transaction from after the backup is executed again.
    assert pay(tally, before).replayed
    with pytest.raises(Refused) as caught:
        tally.call("TransactionService.GetTransaction", transaction_id=after)
    assert caught.value.info.reason == "TRANSACTION_NOT_FOUND"
    assert not pay(tally, after).replayed
    assert (machine.home / "var/lib/tally/ledger.before-restore").is_dir()
    assert content == {path: path.read_bytes() for path in sorted(copy.rglob("*")) if path.is_file()}
