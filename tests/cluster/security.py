"""The TLS certificates and passwords with which clients connect to the brokers. A test makes them once for each cluster."""

import pathlib
import secrets
import subprocess

MECHANISMS = {"plain": "PLAIN", "scram-256": "SCRAM-SHA-256", "scram-512": "SCRAM-SHA-512"}
USER = "tally"
LOGIN_MODULES = "org.apache.kafka.common.security"


class Access:
    """How clients connect to the brokers. `sasl`: None or a key of MECHANISMS. `tls`: encrypts connections. `directory`: for the files."""

    def __init__(self, directory, hosts, sasl=None, tls=False):
        assert sasl is None or sasl in MECHANISMS, f"sasl is {sasl}, and must be one of {', '.join(MECHANISMS)}"
        self.directory, self.sasl, self.tls = pathlib.Path(directory), sasl, tls
        if not (sasl or tls):
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        if sasl and not self.password_file.exists():
            self.password_file.touch(mode=0o600)
            self.password_file.write_text(secrets.token_hex(16))
        if tls and not self.ca.exists():
            make_certificates(self.directory, hosts)

    @property
    def protocol(self):
        return ("SASL_" if self.sasl else "") + ("SSL" if self.tls else "PLAINTEXT")

    @property
    def mechanism(self):
        return MECHANISMS[self.sasl] if self.sasl else None

    @property
    def password_file(self):
        return self.directory / "password"

    @property
    def password(self):
        return self.password_file.read_text()

    @property
    def ca(self):
        """The certificate of the authority with which a client verifies the brokers."""
        return self.directory / "ca.pem"

    @property
    def client_certificate(self):
        """The certificate of a client. The brokers accept it but do not require it."""
        return self.directory / "client.pem"

    @property
    def client_key(self):
        return self.directory / "client.key"

    def broker_properties(self):
        found = {}
        if self.sasl:
            found["sasl.enabled.mechanisms"] = ",".join(MECHANISMS.values())
            found["listener.name.client.plain.sasl.jaas.config"] = (
                f'{LOGIN_MODULES}.plain.PlainLoginModule required user_{USER}="{self.password}";'
            )
            for mechanism in ("scram-sha-256", "scram-sha-512"):
                found[f"listener.name.client.{mechanism}.sasl.jaas.config"] = f"{LOGIN_MODULES}.scram.ScramLoginModule required;"
        if self.tls:
            found["ssl.keystore.type"] = found["ssl.truststore.type"] = "PEM"
            found["ssl.keystore.location"] = self.directory / "broker-with-key.pem"
            found["ssl.truststore.location"] = self.ca
            found["ssl.client.auth"] = "requested"
        return found

    def format_arguments(self):
        """Returns the options of StorageTool that store the passwords for SCRAM."""
        if not self.sasl:
            return []
        mechanisms = [name for name in MECHANISMS.values() if name.startswith("SCRAM")]
        entries = [f"{mechanism}=[name={USER},password={self.password}]" for mechanism in mechanisms]
        return [word for entry in entries for word in ("--add-scram", entry)]

    def client_settings(self):
        """Returns the settings for the client of the tests (librdkafka)."""
        found = {"security.protocol": self.protocol}
        if self.sasl:
            found |= {"sasl.mechanism": self.mechanism, "sasl.username": USER, "sasl.password": self.password}
        if self.tls:
            found["ssl.ca.location"] = str(self.ca)
        return found


def make_certificates(directory, hosts):
    """Makes a certification authority, and certificates for the brokers and for a client."""

    def openssl(*arguments):
        done = subprocess.run(["openssl", *arguments], cwd=directory, capture_output=True, text=True)
        assert done.returncode == 0, f"openssl {' '.join(arguments)}: {done.stderr}"

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    ca = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "new-ca.pem", "-days", "3650", "-subj", "/CN=test authority", *ca)
    names = ",".join(["DNS:localhost", *(f"IP:{host}" for host in sorted(set(hosts) | {"127.0.0.1"}))])
    for name, usage in (("broker", f"serverAuth\nsubjectAltName={names}"), ("client", "clientAuth")):
        (directory / f"{name}.ext").write_text(f"basicConstraints=CA:FALSE\nextendedKeyUsage={usage}\n")
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        # fmt: off
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "new-ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "3650",
                "-extfile", f"{name}.ext", "-out", f"{name}.pem")
        # fmt: on
    both = directory / "broker-with-key.pem"
    both.touch(mode=0o600)
    both.write_text((directory / "broker.key").read_text() + (directory / "broker.pem").read_text())
    # This file gets its name last: its existence means that all files are complete.
    (directory / "new-ca.pem").rename(directory / "ca.pem")
