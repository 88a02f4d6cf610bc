"""Invalid values do not render, and the message names the value and a remedy."""

import pytest
from support import CHART, TLS, TRIAL, helm, merged, refusal, render_text

# The values to add, the value that the message names (helm 3.12 writes a.b, later versions /a/b), and words of the message.
BY_SCHEMA = [
    ({"pining": {}}, "", "pining"),
    ({"replicas": 3}, "replicas", "1"),
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
    # Newer versions of helm print 65,535.
    message = refusal(merged(TLS, values)).replace(",", "")
    assert "values don't meet the specifications of the schema" in message
    assert place in message or "/" + place.replace(".", "/") in message, message
    assert word in message, message


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
]


@pytest.mark.parametrize(("values", "words"), BY_RULE, ids=[words[0] for _, words in BY_RULE])
def test_rule(values, words):
    message = refusal(values)
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("command", [["lint"], ["template", "books"]], ids=["lint", "template"])
def test_a_misspelt_setting_is_named(command):
    """Both commands that people run before an upgrade find the error."""
    values = ["--values", str(CHART / "ci/tls-values.yaml")]
    for setting in ("config.breaker.slow_treshold=50ms", "config.server.draim=20s", "pinning.cpus.exce=3"):
        run = helm(*command, str(CHART), *values, "--set-string", setting, check=False)
        key = setting.split("=")[0].rsplit(".", 1)[1]
        assert run.returncode != 0 and key in run.stdout + run.stderr, run


def test_an_old_cluster_is_rejected():
    run = render_text(TLS, kube_version="1.29", check=False)
    assert run.returncode != 0 and "chart requires kubeVersion: >=1.30.0-0" in run.stderr
