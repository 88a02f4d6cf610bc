"""Runs `tally replica init` as a Job does: with a new topic, possibly twice, and in a directory that is lost afterwards."""

import os
import shutil

import pytest
from nodes import spawn, wait_until

URL = "http://127.0.0.1:50051"


@pytest.fixture
def binary():
    return os.environ.get("TALLY_BINARY") or pytest.skip("TALLY_BINARY does not name the program")


def test_a_new_ledger_is_made_once_and_replicas_need_only_the_log(cluster, binary, tmp_path):
    output = tmp_path / "output.log"
    settings = {
        "TALLY__STORE__KIND": "replicated",
        "TALLY__STORE__REPLICATED__BROKERS": cluster.bootstrap,
        "TALLY__STORE__REPLICATED__TOPIC": f"made-{os.getpid()}",
        "TALLY__STORE__REPLICATED__ADVERTISE": URL,
        "TALLY__STORE__REPLICATED__PEERS": URL,
        "TALLY__AFFINITY__MODE": "off",
    }
    name = "client" if cluster.network else None

    def run(data, *arguments):
        command = [binary, *arguments, "--data", str(tmp_path / data)]
        return spawn(command, output, settings, cluster.network, name)

    init = ["replica", "init", "--create-topic"]
    assert run("job", *init).wait(60) == 0, output.read_text()
    # A Job repeats the command if the first answer was lost. With the same directory, this succeeds although the topic exists.
    assert run("job", *init).wait(60) == 0, output.read_text()
    # Another directory holds another ledger, so the command fails.
    assert run("other", *init).wait(60) == 1
    assert "does not belong to this data directory" in output.read_text()
    shutil.rmtree(tmp_path / "job")
    replica = run("replica", "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    try:
        wait_until(lambda: "listening on" in output.read_text(), "the replica does not start")
        assert replica.poll() is None
    finally:
        replica.terminate()
        replica.wait(60)
