"""Checks that invalid values do not render, and that the message names the value and a remedy."""

import pytest
from support import CHART, FULLNAME, REPLICATED, REPLICATED_TRIAL, TLS, TRIAL, helm, merged, refusal, render_text

# Each row: the values to add, the value that the message names (helm 3.12 writes a.b, later versions /a/b), words of the message.
BY_SCHEMA = [
    ({"pining": {}}, "", "pining"),
    ({"replicas": 10}, "replicas", "9"),
    ({"autoscaling": {"enabled": True}}, "", "autoscaling"),
    ({"config": {"store": {"kind": "shared"}}}, "config.store.kind", "replicated"),
    ({"config": {"store": {"replicated": {"brokers": "kafka"}}}}, "config.store.replicated.brokers", "0-9"),
    ({"config": {"store": {"replicated": {"advertise": "http://a:1"}}}}, "config.store.replicated", "advertise"),
    ({"config": {"store": {"replicated": {"requests_in_flight": 17}}}}, "config.store.replicated.requests_in_flight", "16"),
    ({"replication": {"hostAntiAffinity": "off"}}, "replication.hostAntiAffinity", "preferred"),
    ({"replication": {"brokers": {"password": {"value": "secret"}}}}, "replication.brokers.password", "value"),
    ({"networkPolicy": {"brokerPorts": [0]}}, "networkPolicy.brokerPorts.0", "1"),
    ({"image": {"pullPolicy": "Sometimes"}}, "image.pullPolicy", "IfNotPresent"),
    ({"image": {"digest": "sha256:short"}}, "image.digest", "64"),
    ({"image": {"repository": ""}}, "image.repository", "1"),
    ({"imagePullSecrets": ["name"]}, "imagePullSecrets.0", "object"),
    ({"security": {"allowInsecure": "yes"}}, "security.allowInsecure", "boolean"),
    ({"tls": {"existingSecret": "Not_A_Name"}}, "tls.existingSecret", "a-z0-9"),
    ({"tls": {"clientCa": {"key": "../ca"}}}, "tls.clientCa.key", "a-zA-Z0-9"),
    ({"auth": {"tokens": [{"name": "a", "role": "root", "sha256": "0" * 64}]}}, "auth.tokens.0.role", "admin"),
    ({"auth": {"tokens": [{"name": "a", "role": "read", "sha256": "secret"}]}}, "auth.tokens.0.sha256", "64"),
    ({"auth": {"tokens": [{"name": "a", "role": "read"}]}}, "auth.tokens.0", "sha256"),
    ({"pinning": {"mode": "hard"}}, "pinning.mode", "strict"),
    ({"pinning": {"cpus": {"exec": "0..3"}}}, "pinning.cpus.exec", "0-9"),
    ({"pinning": {"netThreadsMax": 65}}, "pinning.netThreadsMax", "64"),
    ({"pinning": {"realtime": {"priority": 50}}}, "pinning.realtime.priority", "10"),
    ({"resources": {"limits": {"memory": "8 GB"}}}, "resources.limits.memory", "Gi"),
    ({"persistence": {"size": "big"}}, "persistence.size", "Gi"),
    ({"persistence": {"accessModes": ["ReadWriteMany"]}}, "persistence.accessModes.0", "ReadWriteOnce"),
    ({"persistence": {"retention": {"whenDeleted": "Keep"}}}, "persistence.retention.whenDeleted", "Retain"),
    ({"config": {"server": {"drain": "soon"}}}, "config.server.drain", "s|m"),
    ({"config": {"server": {"streams_per_connection_max": 0}}}, "config.server.streams_per_connection_max", "1"),
    ({"config": {"store": {"segment_bytes": "big"}}}, "config.store.segment_bytes", "kKMGT"),
    ({"config": {"store": {"data": "/tmp"}}}, "config.store", "data"),
    ({"config": {"batch": {"queue_requests_max": 1}}}, "config.batch.queue_requests_max", "2"),
    ({"config": {"breaker": {"preset": "brave"}}}, "config.breaker.preset", "seed"),
    ({"config": {"breaker": {"slow_threshold": "50"}}}, "config.breaker.slow_threshold", "auto"),
    ({"config": {"telemetry": {"otlp_endpoint": "collector"}}}, "config.telemetry.otlp_endpoint", "http:"),
    ({"config": {"affinity": {"mode": "pin"}}}, "config", "affinity"),
    ({"config": {"breaker": {"slow_treshold": "50ms"}}}, "config.breaker", "slow_treshold"),
    ({"config": {"breaker": {"min_calls": 0}}}, "config.breaker.min_calls", "1"),
    ({"config": {"breaker": {"methods": {"Process": {}}}}}, "config.breaker.methods", "Process"),
    ({"config": {"breaker": {"methods": {"CreateAccounts": {"mode": "auto"}}}}}, "config.breaker.methods.CreateAccounts", "mode"),
    ({"tls": {"certManager": {"duration": "90d"}}}, "tls.certManager.duration", "h"),
    ({"service": {"externalTrafficPolicy": "Node"}}, "service.externalTrafficPolicy", "Local"),
    ({"service": {"loadBalancerSourceRanges": ["10.0.0.0"]}}, "service.loadBalancerSourceRanges.0", "0-9"),
    ({"updateStrategy": {"type": "Recreate"}}, "updateStrategy.type", "OnDelete"),
    ({"extraArgs": [1]}, "extraArgs.0", "string"),
    ({"verify": {"activeDeadlineSeconds": 1}}, "verify.activeDeadlineSeconds", "60"),
    ({"service": {"port": 70000}}, "service.port", "65535"),
    ({"service": {"type": "ExternalName"}}, "service.type", "ClusterIP"),
    ({"podDisruptionBudget": {"maxUnavailable": 2}}, "podDisruptionBudget.maxUnavailable", "1"),
    ({"probes": {"readiness": {"path": "/"}}}, "probes.readiness", "path"),
    ({"metrics": {"prometheusRule": {"exclude": ["BreakerOpen"]}}}, "metrics.prometheusRule.exclude.0", "TallyBreakerOpen"),
    ({"metrics": {"prometheusRule": {"thresholds": {"queueFull": 80}}}}, "metrics.prometheusRule.thresholds.queueFull", "1"),
    ({"extraEnv": [{"value": "x"}]}, "extraEnv.0", "name"),
]


@pytest.mark.parametrize(("values", "place", "word"), BY_SCHEMA, ids=[place or "unknown" for _, place, _ in BY_SCHEMA])
def test_schema(values, place, word):
    # Newer versions of helm print 65535 as 65,535.
    message = refusal(merged(TLS, values)).replace(",", "")
    assert "values don't meet the specifications of the schema" in message
    assert place in message or "/" + place.replace(".", "/") in message, message
    assert word in message, message


def replicated(key, value):
    """Returns the values of a replicated store with another value of `config.store.replicated`."""
    return merged(REPLICATED, {"config": {"store": {"replicated": {key: value}}}})


def secretless(*keys):
    """Returns the values of a replicated store without these Secrets of `replication`."""
    part = {"existingSecret": ""}
    for key in reversed(keys):
        part = {key: part}
    return merged(REPLICATED, {"replication": part})


def scaler(kind, target):
    return {"apiVersion": "autoscaling/v2", "kind": kind, "metadata": {"name": "a"}, "spec": {"scaleTargetRef": {"kind": "StatefulSet", "name": target}}}


SIDECAR = [{"name": "mesh", "image": "mesh:1"}]
BY_RULE = [
    ({}, ["tls.existingSecret is empty", "security.allowInsecure=true"]),
    ({"tls": TLS["tls"]}, ["auth.existingSecret and auth.tokens are empty", "security.allowInsecure=true"]),
    ({"auth": TLS["auth"]}, ["tls.existingSecret is empty"]),
    (merged(TRIAL, {"tls": {"clientCa": {"existingSecret": "ca"}}}), ["tls.clientCa.existingSecret", "client certificates need TLS"]),
    (
        merged(TLS, {"auth": {"tokens": [{"name": "a", "role": "read", "sha256": "0" * 64}]}}),
        ["auth.existingSecret and auth.tokens are both set"],
    ),
    (merged(TLS, {"resources": {"limits": {"cpu": 1.5}}}), ["resources.limits.cpu = 1.5", "whole CPUs", "pinning.enabled=false"]),
    (merged(TLS, {"resources": {"limits": {"cpu": "2500m"}}}), ["resources.limits.cpu = 2500m", "whole CPUs"]),
    (merged(TLS, {"resources": {"limits": {"cpu": 0}}}), ["resources.limits.cpu = 0", "whole CPUs"]),
    (
        merged(TLS, {"resources": {"requests": {"cpu": 2}}}),
        ["QoS class Guaranteed", "Burstable", "container tally requests 2 cpu and is limited to 4", "pinning.enabled=false"],
    ),
    (merged(TLS, {"resources": {"requests": {"memory": "1Gi"}}}), ["requests 1Gi memory and is limited to 8Gi"]),
    (merged(TLS, {"resources": {"limits": {"memory": None}}}), ["container tally has no memory limit"]),
    (merged(TLS, {"extraContainers": SIDECAR}), ["Burstable", "container mesh has no cpu limit", "container mesh has no memory limit"]),
    (merged(TLS, {"extraInitContainers": SIDECAR}), ["container mesh has no cpu limit"]),
    (
        merged(TLS, {"pinning": {"enabled": False, "realtime": {"enabled": True}}}),
        ["pinning.realtime.enabled is true and pinning.enabled is false"],
    ),
    (
        merged(TLS, {"config": {"server": {"drain": "1m"}}}),
        ["terminationGracePeriodSeconds = 60 is too short", "preStopSleepSeconds (5)", "config.server.drain (1m)", "= 130"],
    ),
    (
        merged(TLS, {"metrics": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}}),
        ["metrics.podMonitor.enabled and metrics.serviceMonitor.enabled"],
    ),
    (
        merged(TLS, {"tls": {"certManager": {"enabled": True, "issuerRef": {"name": "ca"}}}}),
        ["tls.existingSecret and tls.certManager.enabled are both set"],
    ),
    ({"auth": TLS["auth"], "tls": {"certManager": {"enabled": True}}}, ["tls.certManager.issuerRef.name is empty"]),
    (
        {"auth": TLS["auth"], "tls": {"certificateKey": "a.crt", "certManager": {"enabled": True, "issuerRef": {"name": "ca"}}}},
        ["tls.certificateKey = a.crt", "tls.crt and tls.key"],
    ),
    (
        {"auth": TLS["auth"], "tls": {"certManager": {"enabled": True, "issuerRef": {"name": "ca"}, "duration": "24h"}}},
        ["tls.certManager.renewBefore = 720h", "duration (24h)"],
    ),
    (merged(TLS, {"service": {"loadBalancerIP": "192.0.2.1"}}), ["service.loadBalancerIP", "service.type=LoadBalancer"]),
    (
        merged(TLS, {"service": {"type": "NodePort", "loadBalancerClass": "a"}}),
        ["service.loadBalancerClass is set, and service.type is NodePort"],
    ),
    (merged(TLS, {"service": {"externalTrafficPolicy": "Local"}}), ["service.externalTrafficPolicy is set, and service.type is ClusterIP"]),
    (
        merged(TLS, {"verify": {"enabled": True}, "persistence": {"enabled": False}}),
        ["verify.enabled is true and persistence.enabled is false"],
    ),
    (merged(TLS, {"extraEnv": [{"name": "TALLY_POD_NAME", "value": "x"}]}), ["extraEnv: TALLY_POD_NAME is set by the chart"]),
    # Values of the replicated store.
    (merged(TLS, {"replicas": 3}), ["replicas = 3, and config.store.kind is embedded", "config.store.kind=replicated"]),
    (merged(TLS, {"replication": {"init": {"enabled": True}}}), ["replication.init.enabled is true, and config.store.kind is embedded"]),
    (merged(REPLICATED, {"replicas": 1}), ["replicas = 1, and config.store.kind is replicated", "replication.allowFewerReplicas=true"]),
    (merged(REPLICATED, {"replicas": 2}), ["replicas = 2, and config.store.kind is replicated", "Set replicas=3"]),
    (replicated("brokers", None), ["config.store.replicated.brokers is empty"]),
    (merged(REPLICATED, {"persistence": {"enabled": False}}), ["persistence.enabled is false, and config.store.kind is replicated"]),
    (replicated("security", None), ["config.store.replicated.security = plaintext", "security.allowInsecure=true"]),
    (replicated("security", "sasl_plaintext"), ["config.store.replicated.security = sasl_plaintext", "security.allowInsecure=true"]),
    (replicated("security", "tls"), ["replication.brokers.clientCertificate.existingSecret", "let anybody write"]),
    (replicated("sasl_username", None), ["sasl_tls needs config.store.replicated.sasl_mechanism"]),
    (replicated("accept_unsafe_topic", True), ["config.store.replicated.accept_unsafe_topic is true"]),
    (secretless("brokers", "ca"), ["replication.brokers.ca.existingSecret is empty"]),
    (secretless("brokers", "password"), ["sasl_tls needs", "replication.brokers.password.existingSecret"]),
    (secretless("peerToken"), ["replication.peerToken.existingSecret is empty", "role read"]),
    (secretless("peerCa"), ["replication.peerCa.existingSecret is empty", "tls.existingSecret"]),
    (
        merged(REPLICATED_TRIAL, {"replication": {"brokers": {"ca": {"existingSecret": "ca"}}}}),
        ["replication.brokers.ca.existingSecret is set, and config.store.replicated.security is plaintext"],
    ),
    (
        merged(REPLICATED_TRIAL, {"config": {"store": {"replicated": {"sasl_username": "a"}}}}),
        ["config.store.replicated.security = plaintext: sasl_mechanism, sasl_username"],
    ),
    (
        merged(REPLICATED, {"preStopSleepSeconds": 14}),
        ["terminationGracePeriodSeconds = 60 is too short", "+ 7 for the resignation", "= 61"],
    ),
    (
        merged(REPLICATED, {"extraEnv": [{"name": "TALLY__STORE__REPLICATED__ADVERTISE", "value": "x"}]}),
        ["extraEnv: TALLY__STORE__REPLICATED__ADVERTISE is set by the chart"],
    ),
    (merged(REPLICATED, {"extraManifests": [scaler("HorizontalPodAutoscaler", FULLNAME)]}), ["a HorizontalPodAutoscaler for books-tally", "replicas"]),
    (
        merged(REPLICATED, {"extraManifests": [scaler("ScaledObject", '{{ include "tally.fullname" . }}')]}),
        ["a ScaledObject for books-tally"],
    ),
]


@pytest.mark.parametrize(("values", "words"), BY_RULE, ids=[words[0] for _, words in BY_RULE])
def test_rule(values, words):
    message = refusal(values)
    for word in words:
        assert word in message, message


def test_what_the_refusals_change_renders():
    for values in (REPLICATED, REPLICATED_TRIAL, merged(REPLICATED, {"replicas": 0}), merged(REPLICATED, {"preStopSleepSeconds": 13})):
        assert render_text(values).returncode == 0
    assert render_text(merged(REPLICATED, {"replicas": 1, "replication": {"allowFewerReplicas": True}})).returncode == 0
    assert render_text(merged(REPLICATED, {"extraManifests": [scaler("HorizontalPodAutoscaler", "another")]})).returncode == 0


@pytest.mark.parametrize("command", [["lint"], ["template", "books"]], ids=["lint", "template"])
def test_a_misspelt_setting_is_named(command):
    """Checks that the commands that people run before an upgrade (`helm lint`, `helm template`) find the error."""
    values = ["--values", str(CHART / "ci/tls-values.yaml")]
    for setting in ("config.breaker.slow_treshold=50ms", "config.server.draim=20s", "pinning.cpus.exce=3"):
        run = helm(*command, str(CHART), *values, "--set-string", setting, check=False)
        key = setting.split("=")[0].rsplit(".", 1)[1]
        assert run.returncode != 0 and key in run.stdout + run.stderr, run


def test_an_old_cluster_is_rejected():
    run = render_text(TLS, kube_version="1.29", check=False)
    assert run.returncode != 0 and "chart requires kubeVersion: >=1.30.0-0" in run.stderr
