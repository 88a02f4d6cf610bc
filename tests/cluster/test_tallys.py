"""Checks that the cluster starts Tallys with the right settings.

A small program, which prints its settings, takes the place of Tally.
"""

import sys

import pytest
from cluster import Cluster
from nodes import wait_until

STAND_IN = """\
import http.server, os

class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/ready" else 404)
        self.end_headers()

host, port = os.environ["TALLY__ADMIN__LISTEN"].split(":")
print(*sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("TALLY__")), sep="\\n", flush=True)
http.server.HTTPServer((host, int(port)), Ready).serve_forever()
"""


@pytest.fixture
def binary(tmp_path):
    path = tmp_path / "stand-in"
    path.write_text(f"#!{sys.executable}\n{STAND_IN}")
    path.chmod(0o755)
    return path


def test_the_tallys_have_the_same_settings_except_addresses_and_directories(tmp_path, binary):
    with Cluster(tmp_path / "cluster", tallys=3, binary=binary) as cluster:
        for tally in cluster.tallys:
            tally.start()
        for tally in cluster.tallys:
            wait_until(tally.is_ready, f"{tally.name} is not ready")
        found = [
            dict(line.split("=", 1) for line in tally.output.read_text().splitlines() if "=" in line) for tally in cluster.tallys
        ]
        for settings, tally in zip(found, cluster.tallys):
            assert settings["TALLY__STORE__REPLICATED__BROKERS"] == cluster.bootstrap
            assert settings["TALLY__STORE__DATA"] == str(tally.data)
            assert settings["TALLY__STORE__REPLICATED__ADVERTISE"] == f"http://{tally.address}"
            addresses = {f"http://{other.address}" for other in cluster.tallys}
            assert set(settings["TALLY__STORE__REPLICATED__PEERS"].split(",")) == addresses
        own = {"SERVER__LISTEN", "ADMIN__LISTEN", "STORE__DATA", "STORE__REPLICATED__ADVERTISE"}
        common = [{key: value for key, value in settings.items() if key.removeprefix("TALLY__") not in own} for settings in found]
        assert common[0] == common[1] == common[2]

        first = cluster.tally(1)
        first.pause()
        assert not first.is_ready()
        first.resume()
        wait_until(first.is_ready, "the first one is not ready after the pause")
        first.kill()
        with pytest.raises(AssertionError, match="tally-1 ended"):
            first.is_ready()
