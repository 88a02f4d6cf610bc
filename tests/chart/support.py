"""Renders the chart for the tests."""

import functools
import json
import os
import subprocess
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "tally"
RELEASE, NAMESPACE = "books", "ledger"
FULLNAME = "books-tally"
# The oldest supported version of Kubernetes, and the newest version whose schemas are available.
KUBE_VERSIONS = ["1.30", "1.37"]
CI_VALUES = sorted(path.name for path in (CHART / "ci").glob("*-values.yaml"))
# The smallest set of values that renders. Tests add values to it.
TLS = {"tls": {"existingSecret": "tally-tls"}, "auth": {"existingSecret": "tally-tokens"}}
TRIAL = {"security": {"allowInsecure": True}}
REPLICATED = {
    **TLS,
    "replicas": 3,
    "config": {"store": {"kind": "replicated", "replicated": {"brokers": "k0:9092,k1:9093", "security": "sasl_tls", "sasl_mechanism": "plain", "sasl_username": "tally"}}},
    "replication": {
        "peerToken": {"existingSecret": "tally-peer"},
        "peerCa": {"existingSecret": "tally-tls"},
        "brokers": {"ca": {"existingSecret": "kafka-ca"}, "password": {"existingSecret": "kafka-password"}},
    },
}
REPLICATED_TRIAL = {**TRIAL, "replicas": 3, "config": {"store": {"kind": "replicated", "replicated": {"brokers": "kafka:9092"}}}}


def helm(*arguments, check=True):
    """Runs helm and returns its standard output and standard error."""
    run = subprocess.run([os.environ["HELM"], *arguments], capture_output=True, text=True, timeout=120)
    if check:
        assert run.returncode == 0, run.stderr
    return run


def render_text(values, kube_version=KUBE_VERSIONS[0], check=True):
    """Runs `helm template` with the values of a file in ci/ or of a dict."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "values.yaml"
        path.write_text(json.dumps(values) if isinstance(values, dict) else (CHART / "ci" / values).read_text())
        # fmt: off
        return helm("template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--kube-version", kube_version,
                    "--values", str(path), check=check)
        # fmt: on


@functools.cache
def render_ci(name, kube_version=KUBE_VERSIONS[0]):
    """Returns the objects for the values of a file in ci/."""
    return objects(render_text(name, kube_version).stdout)


def objects(text):
    return [document for document in yaml.safe_load_all(text) if document]


def render(values):
    """Returns the objects for a dict of values, by kind and name."""
    return {(o["kind"], o["metadata"]["name"]): o for o in objects(render_text(values).stdout)}


def merged(*parts):
    """Merges nested dicts. A value of a later dict replaces that of an earlier dict."""
    result = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else value
    return result


def refusal(values):
    """Returns the error that helm prints for rejected values."""
    run = render_text(values, check=False)
    assert run.returncode != 0, f"accepted: {values}"
    return run.stderr


def stateful_set(values):
    return render(values)["StatefulSet", FULLNAME]


def pod(values):
    return stateful_set(values)["spec"]["template"]["spec"]


def container(values):
    [found] = [c for c in pod(values)["containers"] if c["name"] == "tally"]
    return found
