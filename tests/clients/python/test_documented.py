"""Runs the commands and programs of docs/clients.md, with its service config, as the page prints them.

Needs the variables of tests/clients/run: TALLY_ENDPOINT, TALLY_BINARY, GO_MODULE (a directory with go.mod and go.sum), GO and
PROTOC_PLUGINS (a search path).
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest

from tally_client import Tally

ROOT = pathlib.Path(__file__).resolve().parents[3]
PROTOS = sorted(path.relative_to(ROOT / "proto").as_posix() for path in (ROOT / "proto/tally/v1").glob("*.proto"))
# Timeout of a command, in seconds. No command takes this long even on a busy machine, not even the first build with Go: the timeout
# only ends a test that hangs.
TIMEOUT_S = 600


def blocks(language):
    """Returns the code blocks of the page in this language."""
    text = (ROOT / "docs/clients.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(*command, cwd, env=None, check=True):
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def generate(target, command):
    """Runs a command of the page in a directory that contains `proto/`, with the `python` and `protoc` of the test's environment."""
    (target / "proto").symlink_to(ROOT / "proto")
    tools = f"{pathlib.Path(sys.executable).parent}:{os.environ['PROTOC_PLUGINS']}:{os.environ['PATH']}"
    run("sh", "-ec", command, cwd=target, env={"PATH": tools})
    [config] = blocks("json")
    (target / "service-config.json").write_text(config)


def secured(program, secure_block, first, last):
    """Replaces the lines of `program` from the one that begins with `first` to the one that begins with `last`."""
    lines = program.splitlines(keepends=True)
    [begin] = [number for number, line in enumerate(lines) if line.lstrip().startswith(first)]
    [end] = [number for number, line in enumerate(lines) if line.lstrip().startswith(last)]
    return "".join([*lines[:begin], secure_block, *lines[end + 1 :]])


@pytest.fixture(scope="module")
def python_client(tmp_path_factory):
    """Returns a function that runs the Python program of the page."""
    target = tmp_path_factory.mktemp("python-client")
    [install, command] = blocks("sh")[0].splitlines()
    packages = set(install.removeprefix("pip install ").split())
    pinned = {line.split("==")[0] for line in (ROOT / "tests/clients/python/requirements.txt").read_text().splitlines()}
    assert packages <= pinned, "the page installs packages that the tests do not have"
    generate(target, command)
    plain, secure, error_info = blocks("python")
    (target / "plain.py").write_text(plain)
    catching = "".join(f"    {line}" for line in plain.splitlines(keepends=True))
    catching = f"{error_info}\nimport grpc\ntry:\n{catching}except grpc.RpcError as error:\n    print(error_info(error))\n    raise\n"
    (target / "catching.py").write_text(catching)
    (target / "secure.py").write_text(secured(plain, secure, "channel =", "channel ="))
    return lambda name, **env: run(sys.executable, f"{name}.py", cwd=target, env=env, check=False)


@pytest.fixture(scope="module")
def go_client(tmp_path_factory):
    """Returns a function that runs the Go program of the page."""
    target = tmp_path_factory.mktemp("go-client")
    for name in ("go.mod", "go.sum"):
        shutil.copy(pathlib.Path(os.environ["GO_MODULE"], name), target)
    generate(target, blocks("sh")[1])
    plain, secure, error_info = blocks("go")
    secure = secured(plain, secure, "ctx :=", "security :=")
    secure = secure.replace("grpc/credentials/insecure", "grpc/credentials").replace(
        '"google.golang.org/grpc"\n', '"google.golang.org/grpc"\n    "google.golang.org/grpc/metadata"\n'
    )
    imports = '    "google.golang.org/genproto/googleapis/rpc/errdetails"\n    "google.golang.org/grpc/status"\n'
    catching = plain.replace("import (\n", f"import (\n{imports}").replace("log.Fatal(err)", "log.Fatal(errorInfo(err))")
    for name, program in (("plain", plain), ("secure", secure), ("catching", f"{catching}\n{error_info}")):
        (target / name).mkdir()
        (target / name / "main.go").write_text(program)
        run(os.environ["GO"], "build", "-o", f"{name}-client", f"./{name}", cwd=target)
    run(os.environ["GO"], "vet", "./plain", "./secure", "./catching", "./tally/v1", cwd=target)
    return lambda name, **env: run(str(target / f"{name}-client"), cwd=target, env=env, check=False)


@pytest.fixture(params=["python_client", "go_client"])
def client(request):
    return request.getfixturevalue(request.param)


class Server:
    """A separate service for a test: the programs of the page use fixed ids, which must be new."""

    def __init__(self, home, *arguments, **env):
        self.home = home
        command = [os.environ["TALLY_BINARY"], "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        with open(home / "stdout", "w") as stdout, open(home / "stderr", "w") as stderr:
            self.process = subprocess.Popen(
                [*command, *(arguments or ("--data", str(home / "data")))], stdout=stdout, stderr=stderr, env={**os.environ, **env}
            )
        for _ in range(600):
            if found := re.search(r"^listening on (.*)$", (home / "stdout").read_text(), re.MULTILINE):
                self.endpoint = found[1]
                return
            assert self.process.poll() is None, (home / "stderr").read_text()
            time.sleep(0.05)
        raise AssertionError("the service did not print its address")

    def stop(self):
        self.process.terminate()
        assert self.process.wait(TIMEOUT_S) == 0


@pytest.fixture
def server(tmp_path):
    started = Server(tmp_path)
    yield started
    started.stop()


def test_the_programs_create_accounts_and_commit_a_transaction_once(client, server):
    for replayed in ("false", "true"):
        done = client("plain", TALLY_ENDPOINT=server.endpoint)
        assert done.returncode == 0, done.stderr
        assert done.stdout.lower().split() == ["sequence", "1", "replayed", replayed]


def test_the_service_config_makes_the_library_wait_for_the_delay_of_the_server(client, server):
    """Opens the circuit before the program calls. Without retries, the call would fail."""
    tally = Tally(server.endpoint)
    first = client("plain", TALLY_ENDPOINT=server.endpoint)
    assert first.returncode == 0, first.stderr
    tally.call("EngineService.SetCircuitMode", key="ProcessTransaction", open_for={"seconds": 2})
    done = client("plain", TALLY_ENDPOINT=server.endpoint)
    assert done.returncode == 0, done.stderr
    assert "replayed" in done.stdout
    circuits = {circuit.key: circuit for circuit in tally.call("EngineService.GetCircuitStats").circuits}
    assert circuits["ProcessTransaction"].totals.rejected_open >= 1, "the circuit was not open, so nothing was retried"


def test_the_programs_can_read_the_reason_of_an_error(client, server):
    Tally(server.endpoint).call("AccountService.CreateAccount", account={"id": "employee", "asset": "USD"})
    done = client("catching", TALLY_ENDPOINT=server.endpoint)
    assert done.returncode != 0
    for word in ("ACCOUNT_ID_REUSED", "tally.v1", "executed"):
        assert word in done.stdout + done.stderr, done


def test_without_the_service_config_the_same_call_fails(python_client, server, tmp_path):
    """Control experiment of the test above: without the service config, the library does not retry, and the call fails."""
    tally = Tally(server.endpoint)
    tally.call("EngineService.SetCircuitMode", key="ProcessTransaction", open_for={"seconds": 60})
    request = tally.message("ProcessTransactionRequest", transaction_id="one")
    request.transfers.add(debit_account_id="bank", credit_account_id="alice", minor_units=1)
    with pytest.raises(Exception, match="CIRCUIT_OPEN|UNAVAILABLE"):
        tally.call("TransactionService.ProcessTransaction", request)


def test_the_programs_work_with_tls_and_a_token(client, tmp_path):
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    # fmt: off
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-keyout", str(key), "-out", str(certificate), cwd=tmp_path)
    # fmt: on
    hashed = run("sh", "-c", "printf %s token-of-the-test | sha256sum", cwd=tmp_path).stdout.split()[0]
    (tmp_path / "tokens").write_text(f"write tester {hashed}\n")
    files = {"TLS_CERTIFICATE": certificate, "TLS_KEY": key, "TOKENS_FILE": tmp_path / "tokens"}
    server = Server(tmp_path, **{f"TALLY__SECURITY__{name}": str(path) for name, path in files.items()})
    try:
        known = {"TALLY_ENDPOINT": server.endpoint, "TALLY_CA": str(certificate)}
        done = client("secure", TALLY_TOKEN="token-of-the-test", **known)
        assert done.returncode == 0 and "sequence 1" in done.stdout, done.stderr
        done = client("secure", TALLY_TOKEN="wrong", **known)
        assert done.returncode != 0 and "unauthenticated" in done.stderr.lower(), done.stderr
    finally:
        server.stop()


def test_the_service_config_names_methods_of_the_service():
    [text] = blocks("json")
    [method_config] = json.loads(text)["methodConfig"]
    declared = {}
    for path in PROTOS:
        source = (ROOT / "proto" / path).read_text()
        for service, body in re.findall(r"^service (\w+) \{(.*?)^\}", source, re.MULTILINE | re.DOTALL):
            declared[f"tally.v1.{service}"] = set(re.findall(r"rpc (\w+)\((?!stream)", body))
    for name in method_config["name"]:
        assert name["service"] in declared
        assert name.get("method") in {None, *declared[name["service"]]}


# For each generator in protoc: the name in its command-line option, a file that it makes, and texts in this file.
LANGUAGES = [
    ("cpp", "tally/v1/types.pb.h", ["namespace tally", "namespace v1"]),
    ("csharp", "Types.cs", ["namespace Tally.V1 {"]),
    ("java", "com/tally/v1/Transfer.java", ["package com.tally.v1;"]),
    ("java", "com/tally/v1/TypesProto.java", ["class TypesProto "]),
    ("kotlin", "com/tally/v1/TransferKt.kt", ["package com.tally.v1"]),
    ("objc", "tally/v1/Types.pbobjc.h", ["@interface TXXTransfer "]),
    ("php", "Tally/V1/Transfer.php", ["namespace Tally\\V1;", "\\Tally\\V1\\GPBMetadata\\Types::initOnce();"]),
    ("php", "Tally/V1/GPBMetadata/Types.php", ["namespace Tally\\V1\\GPBMetadata;"]),
    ("pyi", "tally/v1/types_pb2.pyi", ["class Transfer("]),
    ("python", "tally/v1/types_pb2.py", ["tally.v1.types_pb2"]),
    ("ruby", "tally/v1/types_pb.rb", ["module Tally", "module V1"]),
]


@pytest.mark.parametrize(("language", "path", "words"), LANGUAGES, ids=[path for _, path, _ in LANGUAGES])
def test_plain_protoc_makes_the_documented_names(language, path, words, tmp_path):
    protoc = pathlib.Path(sys.executable).parent / "protoc"
    run(str(protoc), f"--proto_path={ROOT / 'proto'}", f"--{language}_out={tmp_path}", *PROTOS, cwd=tmp_path)
    text = (tmp_path / path).read_text()
    for word in words:
        assert word in text, text[:2000]


def test_every_file_has_the_options_that_bufs_managed_mode_sets():
    for path in PROTOS:
        name = "".join(part.capitalize() for part in pathlib.Path(path).stem.split("_"))
        options = dict(re.findall(r"^option (\w+) = (.*);$", (ROOT / "proto" / path).read_text(), re.MULTILINE))
        assert options == {
            "csharp_namespace": '"Tally.V1"',
            "go_package": '"tally/v1;tallyv1"',
            "java_multiple_files": "true",
            "java_outer_classname": f'"{name}Proto"',
            "java_package": '"com.tally.v1"',
            "objc_class_prefix": '"TXX"',
            "php_metadata_namespace": r'"Tally\\V1\\GPBMetadata"',
            "php_namespace": r'"Tally\\V1"',
            "ruby_package": '"Tally::V1"',
        }, path
