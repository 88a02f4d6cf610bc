"""Checks that every rendered object is valid for Kubernetes, prometheus-operator and cert-manager."""

import copy

import kubernetes_validate
import pytest
from cloudcoil.models.cert_manager import v1 as cert_manager
from cloudcoil.models.prometheus_operator import v1 as monitoring
from support import CHART, CI_VALUES, FULLNAME, KUBE_VERSIONS, NAMESPACE, helm, render_ci


# The models of custom resources.
CUSTOM = {"monitoring.coreos.com/v1": monitoring, "cert-manager.io/v1": cert_manager}


def check(document, kube_version):
    """Raises if the document has an unknown field, lacks a field, or has a value of a wrong type, pattern or enumeration."""
    if models := CUSTOM.get(document["apiVersion"]):
        getattr(models, document["kind"]).model_validate(document, extra="forbid")
    else:
        kubernetes_validate.validate(document, kube_version, strict=True)


@pytest.mark.parametrize("values", [None, *CI_VALUES])
def test_lint(values):
    arguments = [] if values is None else ["--values", str(CHART / "ci" / values)]
    run = helm("lint", "--strict", str(CHART), *arguments)
    assert "1 chart(s) linted, 0 chart(s) failed" in run.stdout


@pytest.mark.parametrize("kube_version", KUBE_VERSIONS)
@pytest.mark.parametrize("values", CI_VALUES)
def test_every_object_is_valid(values, kube_version):
    documents = render_ci(values, kube_version)
    assert len(documents) >= 5
    for document in documents:
        try:
            check(document, kube_version)
        except Exception as error:
            raise AssertionError(f"{document['kind']}/{document['metadata']['name']}: {error}") from error


def test_the_check_can_fail():
    documents = {document["kind"]: document for values in CI_VALUES for document in render_ci(values)}
    stateful, monitor, certificate = documents["StatefulSet"], documents["PodMonitor"], documents["Certificate"]
    for document, path, value in [
        (stateful, ["spec", "replica"], 1),
        (stateful, ["spec", "replicas"], "one"),
        (stateful, ["spec", "template", "spec", "containers", 0, "lifecycle", "preStop", "sleep"], {}),
        (monitor, ["spec", "podMetricsEndpoints", 0, "intervall"], "15s"),
        (monitor, ["spec", "podMetricsEndpoints", 0, "interval"], "soon"),
        (certificate, ["spec", "dnsName"], "books"),
        (certificate, ["spec", "issuerRef"], "internal-ca"),
    ]:
        broken = copy.deepcopy(document)
        at = broken
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = value
        with pytest.raises(Exception):
            check(broken, KUBE_VERSIONS[0])


def test_the_values_together_render_every_template():
    kinds = {document["kind"] for values in CI_VALUES for document in render_ci(values)}
    assert kinds == {
        "Certificate",
        "ConfigMap",
        "CronJob",
        "Job",
        "NetworkPolicy",
        "Pod",
        "PodDisruptionBudget",
        "PodMonitor",
        "PrometheusRule",
        "Secret",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
        "StatefulSet",
    }


@pytest.mark.parametrize("values", CI_VALUES)
def test_names_and_labels(values):
    for document in render_ci(values):
        metadata = document["metadata"]
        assert metadata["name"].startswith(FULLNAME)
        # The user decides the labels of extraManifests.
        if not metadata["name"].endswith("-extra"):
            assert metadata["namespace"] == NAMESPACE
            assert metadata["labels"]["app.kubernetes.io/instance"] == "books"


@pytest.mark.parametrize("values", CI_VALUES)
def test_selectors_find_the_pod_of_the_service_and_no_other_pod(values):
    documents = render_ci(values)
    labels = next(d for d in documents if d["kind"] == "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    others = [d["metadata"]["labels"] for d in documents if d["kind"] == "Pod"]
    jobs = [d["spec"]["jobTemplate"] for d in documents if d["kind"] == "CronJob"] + [d for d in documents if d["kind"] == "Job"]
    others += [labels for job in jobs for labels in (job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"])]
    selectors = {
        (d["kind"], d["metadata"]["name"]): s.get("matchLabels", s)
        for d in documents
        if d["kind"] != "ServiceMonitor" and (s := d.get("spec", {}).get("selector") or d.get("spec", {}).get("podSelector"))
    }
    assert len(selectors) >= 4
    for name, selector in selectors.items():
        assert selector.items() <= labels.items(), name
        assert all(not selector.items() <= other.items() for other in others), name


def test_the_service_monitor_finds_the_one_service_with_the_port():
    documents = render_ci("realtime-values.yaml")
    [monitor] = [d for d in documents if d["kind"] == "ServiceMonitor"]
    selector = monitor["spec"]["selector"]["matchLabels"].items()
    [service] = [d for d in documents if d["kind"] == "Service" and selector <= d["metadata"]["labels"].items()]
    assert monitor["spec"]["endpoints"][0]["port"] in [port["name"] for port in service["spec"]["ports"]]
