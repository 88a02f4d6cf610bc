"""Tests the command scripts/cluster in the way of a new user."""

import json
import pathlib
import subprocess
import sys

import pytest
from nodes import wait_until

MAIN = pathlib.Path(__file__).with_name("main.py")
TIMEOUT_S = 150


@pytest.fixture
def command(tmp_path):
    """Returns a function that runs the command of scripts/cluster, without the installation of tools."""

    def run(*arguments, check=True, text=None):
        words = [sys.executable, str(MAIN), "--directory", str(tmp_path), *arguments]
        done = subprocess.run(words, capture_output=True, text=True, input=text, timeout=TIMEOUT_S)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    yield run
    run("down", check=False)


def states(command):
    return [node["state"] for node in json.loads(command("status", "--json").stdout)["nodes"]]


def test_the_data_survive_and_a_killed_broker_returns(command):
    refused = command("status", check=False)
    assert refused.returncode == 1 and "no cluster runs in" in refused.stderr
    assert "broker-3" in command("up", "--brokers-only", "--detach").stdout
    assert states(command) == ["running"] * 3
    second = command("up", "--brokers-only", check=False)
    assert second.returncode == 1 and "already runs" in second.stderr

    command("kill", "2")
    assert states(command) == ["running", "stopped", "running"]
    command("tool", "console-producer", "--topic", "ledger", "--command-property", "acks=all", text="a record\n")
    command("start", "broker-2")
    refused = command("start", "broker-2", check=False)
    assert refused.returncode == 1 and "broker-2 already runs" in refused.stderr
    refused = command("cut", "1", "2", check=False)
    assert refused.returncode == 1 and "up --network" in refused.stderr
    command("down")

    command("up", "--brokers-only", "--detach")
    # fmt: off
    read = command("tool", "console-consumer", "--topic", "ledger", "--partition", "0", "--from-beginning", "--max-messages", "1",
                   "--timeout-ms", "60000")
    # fmt: on
    assert read.stdout.strip() == "a record"
    pid = json.loads(command("status", "--json").stdout)["nodes"][0]["pid"]
    command("down")
    wait_until(lambda: not pathlib.Path(f"/proc/{pid}").exists(), "a broker still runs")
