"""The Tallys: processes of `tally serve` with the replicated store. Their settings differ only in addresses and directories."""

import http.client
import json

from nodes import Node, spawn, wait_until


class Tally(Node):
    """One Tally. `binary` is the path of the program. `more` are further settings, by their keys.

    A test can add variables to `environment` before a start.
    """

    def __init__(self, number, host, ports, directory, binary, brokers, peers, topic, access, more=None, network=None):
        super().__init__(f"tally-{number}", host, directory, network)
        self.number, self.ports, self.binary, self.more = number, ports, binary, more or {}
        self.environment = {}
        self.read_output, self.led_term = 0, 0
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
        """Returns the settings, by their keys."""
        found = {
            "server.listen": self.address,
            "admin.listen": self.admin_address,
            "store.data": self.data,
            "store.kind": "replicated",
            "store.replicated.brokers": ",".join(self.brokers),
            "store.replicated.topic": self.topic,
            "store.replicated.advertise": f"http://{self.address}",
            "store.replicated.peers": ",".join(f"http://{peer}" for peer in self.peers),
        }
        if self.network:
            found["security.allow_insecure"] = "true"
        protocols = {(False, False): "plaintext", (False, True): "tls", (True, False): "sasl_plaintext", (True, True): "sasl_tls"}
        found["store.replicated.security"] = protocols[bool(self.access.sasl), bool(self.access.tls)]
        if self.access.sasl:
            found["store.replicated.sasl_mechanism"] = self.access.mechanism.lower()
            found["store.replicated.sasl_username"] = "tally"
            found["store.replicated.sasl_password_file"] = self.access.password_file
        if self.access.tls:
            found["store.replicated.tls_ca_file"] = self.access.ca
        return found | self.more

    def command(self):
        """Returns the command, and the settings as environment variables."""
        environment = {f"TALLY__{key.upper().replace('.', '__')}": str(value) for key, value in self.settings().items()}
        return [str(self.binary), "serve"], environment | self.environment

    def last_term_led(self):
        """Returns the last term in which this Tally led, from its output; 0 if it has not led yet."""
        if not self.output.exists():
            return 0
        with open(self.output, "rb") as output:
            output.seek(self.read_output)
            *lines, rest = output.read().split(b"\n")
            self.read_output = output.tell() - len(rest)
        for line in lines:
            if b'"this replica leads"' in line:
                self.led_term = json.loads(line)["fields"]["term"]
        return self.led_term

    def is_live(self):
        """Returns whether /live answers 200: the directory of the Tally is open."""
        return self.answers_200("/live")

    def is_ready(self):
        """Returns whether /ready answers 200: the Tally has read the log up to its end."""
        return self.answers_200("/ready")

    def answers_200(self, path):
        assert self.running, f"{self.name} ended:\n{self.last_output()}"
        host, port = self.admin_address.split(":")

        def ask():
            connection = http.client.HTTPConnection(host, int(port), timeout=2)
            try:
                connection.request("GET", path)
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
        """Makes the ledger in the empty topic. Only one Tally of a cluster does this, once."""
        wait_until(lambda: self.try_run("replica", "init"), f"tally replica init failed:\n{self.last_output()}", every_s=0.5)

    def run(self, *arguments):
        """Runs a subcommand with the settings of this Tally, which must be stopped."""
        assert self.try_run(*arguments), f"tally {' '.join(arguments)} failed:\n{self.last_output()}"

    def try_run(self, *arguments):
        """Runs a subcommand, and returns whether it succeeded. The caller repeats it if a broker failed meanwhile."""
        assert not self.running, f"{self.name} runs"
        _, environment = self.command()
        self.directory.mkdir(parents=True, exist_ok=True)
        process = spawn([str(self.binary), *arguments], self.output, environment, self.network, self.name)
        return process.wait(60) == 0
