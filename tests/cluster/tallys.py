"""The Tallys: `tally serve` with the replicated store. All have the same settings, except their addresses and directories."""

import http.client

from nodes import Node


class Tally(Node):
    """One Tally. Needs `binary`, the path of the program."""

    def __init__(self, number, host, ports, directory, binary, brokers, peers, topic, access, network=None):
        super().__init__(f"tally-{number}", host, directory, network)
        self.number, self.ports, self.binary = number, ports, binary
        self.brokers, self.peers, self.topic, self.access = brokers, peers, topic, access

    @property
    def address(self):
        """The address of the gRPC service."""
        return f"{self.host}:{self.ports['grpc']}"

    @property
    def admin_address(self):
        """The address of the metrics and of /ready."""
        return f"{self.host}:{self.ports['admin']}"

    @property
    def data(self):
        return self.directory / "data"

    def settings(self):
        """Returns the settings, by their keys. The replicated store does not exist yet: its keys below are the plan."""
        found = {
            "server.listen": self.address,
            "admin.listen": self.admin_address,
            "store.data": self.data,
            "store.kind": "replicated",
            "store.replicated.brokers": ",".join(self.brokers),
            "store.replicated.topic": self.topic,
            "store.replicated.advertised": self.address,
            "store.replicated.peers": ",".join(peer for peer in self.peers if peer != self.address),
        }
        if self.network:
            found["security.allow_insecure"] = "true"
        if self.access.sasl:
            found["store.replicated.sasl.mechanism"] = self.access.mechanism
            found["store.replicated.sasl.user"] = "tally"
            found["store.replicated.sasl.password_file"] = self.access.password_file
        if self.access.tls:
            found["store.replicated.tls.ca_file"] = self.access.ca
        return found

    def command(self):
        """Returns the command, and the settings as environment variables."""
        environment = {f"TALLY__{key.upper().replace('.', '__')}": str(value) for key, value in self.settings().items()}
        return [str(self.binary), "serve"], environment

    def is_ready(self):
        """Returns whether /ready answers 200: the Tally has read the log up to its end."""
        assert self.running, f"{self.name} ended:\n{self.last_output()}"
        host, port = self.admin_address.split(":")

        def ask():
            connection = http.client.HTTPConnection(host, int(port), timeout=2)
            try:
                connection.request("GET", "/ready")
                return connection.getresponse().status == 200
            except OSError:
                return False
            finally:
                connection.close()

        if not self.network:
            return ask()
        with self.network.inside(self.name):
            return ask()

    def initialize(self):
        """Makes the ledger, once for each cluster: the first Tally does it with an empty topic. Comes with `tally replica init`."""
