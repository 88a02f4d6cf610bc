"""Checks the properties of the rendered chart."""

import json
import os
import re
import shutil
import subprocess
import tomllib

import pytest
import yaml
from support import (
    CHART,
    CI_VALUES,
    FULLNAME,
    KUBE_VERSIONS,
    NAMESPACE,
    RELEASE,
    REPLICATED,
    ROOT,
    TLS,
    TRIAL,
    container,
    helm,
    merged,
    pod,
    render,
    render_ci,
    render_text,
    stateful_set,
)


def toml_text(values):
    return render(values)["ConfigMap", FULLNAME]["data"]["tally.toml"]


def toml(values):
    return tomllib.loads(toml_text(values))


def source(path):
    return (ROOT / path).read_text()


# ----- settings


def test_settings_arrive_with_their_types():
    config = {
        "server": {"drain": "10s", "streams_per_connection_max": 1048576},
        "breaker": {"slow_rate": 0.5, "slow_threshold": "auto", "min_calls": 1, "methods": {"CreateAccounts": {"self_probe": True}}},
        "telemetry": {"log": 'a "b"', "format": "json"},
    }
    read = toml(merged(TLS, {"config": config}))
    assert read["server"] == {"listen": "0.0.0.0:50051", "drain": "10s", "streams_per_connection_max": 1048576}
    assert read["breaker"] == config["breaker"] and read["telemetry"] == config["telemetry"]
    assert type(read["server"]["streams_per_connection_max"]) is int
    assert read["admin"] == {"listen": "0.0.0.0:9090", "enabled": True}
    assert read["store"] == {"data": "/var/lib/tally/ledger"}
    assert read["batch"] == {}


def test_security_settings():
    assert toml(TRIAL)["security"] == {"allow_insecure": True}
    assert toml(TLS)["security"] == {
        "allow_insecure": False,
        "tls_certificate": "/etc/tally/tls/tls.crt",
        "tls_key": "/etc/tally/tls/tls.key",
        "tokens_file": "/etc/tally/auth/tokens",
    }
    mutual = toml(merged(TLS, {"tls": {"clientCa": {"existingSecret": "clients"}}}))["security"]
    assert mutual["client_ca"] == "/etc/tally/client-ca/ca.crt"


def test_affinity_settings():
    assert toml(TLS)["affinity"] == {"mode": "auto"}
    assert toml(merged(TLS, {"pinning": {"enabled": False, "mode": "pin"}}))["affinity"] == {"mode": "off"}
    pinning = {"mode": "pin", "cpus": {"exec": "3", "net": "0-1"}, "netThreadsMax": 2, "realtime": {"enabled": True, "priority": 4}}
    assert toml(merged(TLS, {"pinning": pinning}))["affinity"] == {
        "mode": "pin",
        "net_threads_max": 2,
        "cpus": {"exec": "3", "net": "0-1"},
        "fifo": {"enabled": True, "priority": 4, "required": False},
    }


@pytest.mark.parametrize("values", CI_VALUES)
def test_the_service_takes_its_configuration(values, tmp_path):
    """Checks that the binary accepts the rendered tally.toml. The binary checks every key and bound."""
    [config] = [d for d in render_ci(values) if d["kind"] == "ConfigMap" and d["metadata"]["name"] == FULLNAME]
    text = known_sections(config["data"]["tally.toml"])
    result = serve_check(text, tmp_path)
    assert result.returncode == 0, result.stderr
    # Control: the check fails for a wrong value.
    result = serve_check(text.replace('drain = "', 'drain = "x'), tmp_path)
    assert result.returncode == 78 and "server.drain" in result.stderr


def known_sections(text):
    """Returns only the sections that the binary knows: a setting may be in the chart before it is in the service."""
    known = rust_structs()["Config"].keys()
    assert known >= {"server", "store", "batch", "breaker", "affinity", "telemetry"}
    sections = re.split(r"^(?=\[)", text, flags=re.MULTILINE)
    return "".join(s for s in sections if s and re.match(r"\[(\w+)", s)[1] in known)


def serve_check(text, scratch, *arguments):
    """Runs `tally serve --check` with these arguments, with files in place of the mounted Secrets, and without CPUs that this machine does not have."""
    for directory in ("tls", "client-ca", "auth", "peer-ca"):
        (scratch / directory).mkdir(exist_ok=True)
    certificate, key = scratch / "tls/tls.crt", scratch / "tls/tls.key"
    request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=tally"]
    subprocess.run(["openssl", *request, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60)
    shutil.copy(certificate, scratch / "client-ca/ca.crt")
    (scratch / "auth/tokens").write_text(f"write payments {'0' * 64}\n")
    path = scratch / "tally.toml"
    path.write_text(text.replace("/etc/tally/", f"{scratch}/"))
    shutil.copy(certificate, scratch / "peer-ca/ca.crt")
    # In a cluster, the pod's own address is in its environment.
    scheme = "https" if "tls_certificate" in text else "http"
    address = {"TALLY__STORE__REPLICATED__ADVERTISE": f"{scheme}://{FULLNAME}-0.{FULLNAME}-headless.{NAMESPACE}.svc:50051"}
    environment = {**os.environ, "TALLY__AFFINITY__MODE": "off", **(address if "[store.replicated]" in text else {})}
    command = [os.environ["TALLY_BINARY"], "serve", "--config", str(path), "--check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def test_every_setting_of_the_service_is_offered():
    offered = {name: set(table) for name, table in toml(merged(TLS, everything())).items()}
    structs = rust_structs()
    for name, struct in structs["Config"].items():
        missing = set() if name == "breaker" else structs[struct].keys() - offered[name]
        assert not missing, f"[{name}] {missing} can't be set in values.yaml"


def test_the_schema_has_the_settings_of_the_service():
    """Checks that the schema of each section has the fields of the section's struct, except the fields that the chart sets itself."""
    schema, structs = json.loads(source("helm/tally/values.schema.json")), rust_structs()
    config = schema["properties"]["config"]["properties"]
    own = {"server": {"listen"}, "store": {"data"}}
    for section, node in config.items():
        assert node["additionalProperties"] is False, section
        fields = structs[structs["Config"][section]].keys()
        assert node["properties"].keys() == fields - own.get(section, set()), section
    assert structs["Config"].keys() - config.keys() == {"affinity", "security", "admin"}
    replicated = config["store"]["properties"]["replicated"]
    files = {"peer_token_file", "peer_ca_file", "tls_ca_file", "tls_cert_file", "tls_key_file", "sasl_password_file"}
    assert replicated["additionalProperties"] is False
    assert replicated["properties"].keys() == structs["ReplicatedSettings"].keys() - files - {"advertise", "peers"}
    circuit, breaker = schema["definitions"]["circuit"], config["breaker"]["properties"]
    of_whole_breaker = {"mode", "strict", "tick_interval", "methods"}
    assert circuit["properties"] == {key: value for key, value in breaker.items() if key not in of_whole_breaker}
    kinds = re.findall(r'CallKind::\w+ => "(\w+)"', source("src/engine/call_kind.rs"))
    assert len(kinds) == 4 and breaker["methods"]["properties"].keys() == set(kinds)


def test_the_schema_refuses_unknown_keys_everywhere():
    """Skips objects without a list of keys: maps with free keys (labels, quantities) and objects of Kubernetes."""
    free = {"global", "affinity", "podSecurityContext", "containerSecurityContext"}

    def walk(node, path):
        if isinstance(node, dict):
            if "properties" in node and path[-1:] != ["items"] and path[-1] not in free:
                assert node.get("additionalProperties") is False, path
            for key, value in node.items():
                walk(value, [*path, key])

    walk(json.loads(source("helm/tally/values.schema.json")), ["schema"])


def everything():
    """Returns a value for every key of `config`, and for the settings that are outside `config` in the values."""
    return {
        "tls": {"clientCa": {"existingSecret": "clients"}},
        "pinning": {"cpus": {"exec": "1", "wal": "2", "net": "3", "aux": "0"}, "netThreadsMax": 1, "verifyInterval": "10s", "realtime": {"enabled": True}},
        "config": {
            "server": {"streams_per_connection_max": 1, "connections_per_thread_max": 1, "connections_per_client_max": 1, "idle_timeout": "5m", "connection_age_max": "1h", "connection_grace": "1h", "message_time_max": "30s", "memory_max": "256MiB"},
            "store": {"segment_bytes": "8MiB", "block_bytes_max": "2MiB", "checkpoint_bytes": "1MiB", "scrub_bytes_per_second": "0B", "holds_max": 1000, "kind": "embedded", "replicated": {"topic": "tally", "heartbeat": "100ms", "requests_in_flight": 2}},
            "batch": {"queue_requests_max": 2, "queue_bytes_max": "1MiB", "max_linger": "1ms", "siblings": 4, "client_share_percent": 50, "latency_budget": "800us"},
            "breaker": {"preset": "seed", "slow_threshold": "1ms"},
            "telemetry": {"otlp_endpoint": "http://collector:4317", "trace_ratio": 0.5, "metrics_interval": "15s"},
        },
    }


def rust_structs():
    """Returns the public fields of the structs of the service's settings, with their types."""
    files = [*(ROOT / "src/config").glob("*.rs"), *(ROOT / "src").rglob("*settings.rs")]
    text = "\n".join(path.read_text() for path in sorted(files))
    structs = re.findall(r"pub struct (\w+) \{(.*?)\n\}", text, re.DOTALL)
    return {name: dict(re.findall(r"^    pub (\w+): (.+),$", body, re.MULTILINE)) for name, body in structs}


# ----- CPUs


def test_requests_are_the_limits():
    for resources in [{}, {"limits": {"cpu": 2, "memory": "1Gi"}}, {"limits": {"cpu": "2000m"}, "requests": {"cpu": 2}}]:
        found = container(merged(TLS, {"resources": resources}))["resources"]
        assert found["requests"].keys() == found["limits"].keys() == {"cpu", "memory"}
        assert found["requests"]["memory"] == found["limits"]["memory"]


def test_the_pod_has_the_variables_that_topology_reads():
    names = re.findall(r'^pub const ENV_\w+: &str = "(TALLY_\w+)";', source("crates/topology/src/pod.rs"), re.MULTILINE)
    assert len(names) == 3
    environment = {variable["name"]: variable for variable in container(TLS)["env"]}
    assert set(names) <= environment.keys()
    assert {"TALLY_POD_NAME", "TALLY_POD_NAMESPACE", "TALLY_NODE_NAME"} <= environment.keys()
    for variable in environment.values():
        if reference := variable.get("valueFrom", {}).get("resourceFieldRef"):
            assert reference["divisor"] == "1m"
            assert reference["resource"] == ("limits.cpu" if "LIMIT" in variable["name"] else "requests.cpu")


@pytest.mark.parametrize(
    ("resources", "extra", "qos"),
    [
        ({}, [], "Guaranteed"),
        ({"requests": {"cpu": 1}}, [], "Burstable"),
        ({}, [{"name": "sidecar", "image": "s"}], "Burstable"),
        ({}, [{"name": "sidecar", "image": "s", "resources": {"limits": {"cpu": "100m", "memory": "1Mi"}}}], "Guaranteed"),
        ({"limits": {"cpu": None, "memory": None}}, [], "BestEffort"),
    ],
)
def test_qos_class(resources, extra, qos):
    values = merged(TLS, {"pinning": {"enabled": False}, "resources": resources, "extraContainers": extra})
    [variable] = [v for v in container(values)["env"] if v["name"] == "TALLY_POD_QOS_CLASS"]
    assert variable["value"] == qos


def test_capabilities_only_for_real_time():
    plain = container(TLS)["securityContext"]
    assert plain["capabilities"] == {"drop": ["ALL"]} and plain["allowPrivilegeEscalation"] is False
    fifo = container(merged(TLS, {"pinning": {"realtime": {"enabled": True}}}))["securityContext"]
    assert fifo["capabilities"] == {"drop": ["ALL"], "add": ["SYS_NICE"]} and fifo["allowPrivilegeEscalation"] is True


# ----- security


@pytest.mark.parametrize("values", CI_VALUES)
def test_pods_are_confined(values):
    documents = render_ci(values)
    pods = [d["spec"]["template"]["spec"] for d in documents if d["kind"] == "StatefulSet"]
    pods += [d["spec"] for d in documents if d["kind"] == "Pod"]
    pods += [d["spec"]["jobTemplate"]["spec"]["template"]["spec"] for d in documents if d["kind"] == "CronJob"]
    pods += [d["spec"]["template"]["spec"] for d in documents if d["kind"] == "Job"]
    assert len(pods) == {"full-values.yaml": 3, "replicated-values.yaml": 4, "replicated-trial-values.yaml": 3}.get(values, 2)
    for spec in pods:
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsUser"] == 65532 and spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        own = [c for c in spec["containers"] if c["name"] in ("tally", "health", "verify", "init")]
        assert len(own) == 1
        assert own[0]["securityContext"]["readOnlyRootFilesystem"] is True
        assert own[0]["securityContext"]["capabilities"]["drop"] == ["ALL"]
        assert own[0]["image"] == pods[0]["containers"][0]["image"]


def test_secrets_are_mounted_as_whole_directories():
    values = merged(TLS, {"tls": {"clientCa": {"existingSecret": "clients"}}})
    mounts = {mount["name"]: mount for mount in container(values)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod(values)["volumes"]}
    for name, secret in [("tls", "tally-tls"), ("client-ca", "clients"), ("auth", "tally-tokens")]:
        assert volumes[name]["secret"]["secretName"] == secret
        assert mounts[name]["readOnly"] is True and "subPath" not in mounts[name]
    assert {"tls", "client-ca", "auth"}.isdisjoint(volume["name"] for volume in pod(TRIAL)["volumes"])


def test_tokens_become_a_secret_of_hashes():
    tokens = [{"name": "payments", "role": "write", "sha256": "0" * 64}, {"name": "op", "role": "admin", "sha256": "f" * 64}]
    rendered = render({"tls": TLS["tls"], "auth": {"tokens": tokens}})
    secret = rendered["Secret", f"{FULLNAME}-auth"]["stringData"]["tokens"]
    assert secret.splitlines() == [f"write payments {'0' * 64}", f"admin op {'f' * 64}"]
    volumes = rendered["StatefulSet", FULLNAME]["spec"]["template"]["spec"]["volumes"]
    assert {"name": "auth", "secret": {"secretName": f"{FULLNAME}-auth", "defaultMode": 0o440}} in volumes


def test_the_network_policy_allows_only_listed_peers():
    policy = render(TLS)["NetworkPolicy", FULLNAME]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"] and policy["egress"] == []
    assert [(rule["from"] != [], rule["ports"][0]["port"]) for rule in policy["ingress"]] == [(True, "grpc"), (True, "admin")]
    nobody = merged(TLS, {"networkPolicy": {"clients": [], "monitoring": []}})
    rendered = render(nobody)
    [rule] = rendered["NetworkPolicy", FULLNAME]["spec"]["ingress"]
    [peer] = rule["from"]
    assert peer["podSelector"]["matchLabels"].items() <= rendered["Pod", f"{FULLNAME}-test-health"]["metadata"]["labels"].items()
    closed = render(merged(nobody, {"test": {"enabled": False}}))["NetworkPolicy", FULLNAME]["spec"]
    assert closed["ingress"] == []
    traced = render(merged(TLS, {"config": {"telemetry": {"otlp_endpoint": "http://collector:4317"}}}))
    ports = [port["port"] for rule in traced["NetworkPolicy", FULLNAME]["spec"]["egress"] for port in rule["ports"]]
    assert ports == [53, 53, 4317]


# ----- probes, stop and restart


def test_probes_without_tls_are_grpc_and_with_tls_http():
    plain, secure = container(TRIAL), container(TLS)
    for probe in ("startupProbe", "readinessProbe"):
        assert plain[probe]["grpc"] == {"port": 50051, "service": "tally.v1.TransactionService"}
        assert secure[probe]["httpGet"] == {"path": "/ready", "port": "admin"}
    for found in (plain, secure):
        assert found["livenessProbe"]["httpGet"] == {"path": "/live", "port": "admin"}


def test_the_probed_service_exists():
    proto = (ROOT / "proto/tally/v1/transaction_service.proto").read_text()
    assert "package tally.v1;" in proto and "service TransactionService {" in proto


def test_stop_fits_into_the_grace_period():
    spec = pod(TLS)
    sleep = container(TLS)["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = int(toml(TLS)["server"]["drain"].removesuffix("s"))
    assert sleep + 2 * drain + 5 <= spec["terminationGracePeriodSeconds"]
    assert "lifecycle" not in container(merged(TLS, {"preStopSleepSeconds": 0}))


def test_one_writer_and_a_volume_that_is_kept():
    spec = stateful_set(TLS)["spec"]
    assert spec["replicas"] == 1
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    [claim] = spec["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "100Gi"
    trial = stateful_set(merged(TLS, {"persistence": {"enabled": False}}))["spec"]
    assert "volumeClaimTemplates" not in trial
    assert {"name": "data", "emptyDir": {}} in trial["template"]["spec"]["volumes"]


def test_a_changed_setting_restarts_the_pod_and_a_changed_rule_does_not():
    def template(values):
        return stateful_set(merged(TLS, values))["spec"]["template"]

    assert template({}) == template({"metrics": {"prometheusRule": {"enabled": True}}, "service": {"port": 1}})
    changed = template({"config": {"telemetry": {"log": "debug"}}})
    key = "checksum/config"
    assert changed["metadata"]["annotations"][key] != template({})["metadata"]["annotations"][key]


def test_the_claim_template_never_changes_with_the_version():
    labels = stateful_set(merged(TLS, {"commonLabels": {"a": "b"}}))["spec"]["volumeClaimTemplates"][0]["metadata"]["labels"]
    assert labels.keys() == {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"}


def test_the_update_strategy():
    assert stateful_set(TLS)["spec"]["updateStrategy"] == {"type": "RollingUpdate"}
    on_delete = stateful_set(merged(TLS, {"updateStrategy": {"type": "OnDelete"}}))
    assert on_delete["spec"]["updateStrategy"] == {"type": "OnDelete"}


def test_extra_arguments_follow_those_of_the_chart(tmp_path):
    arguments = container(merged(TLS, {"extraArgs": ["--admin", "[::]:9090"]}))["args"]
    assert arguments == ["serve", "--config", "/etc/tally/tally.toml", "--admin", "[::]:9090"]
    text = toml_text(TRIAL)
    assert serve_check(text, tmp_path, *arguments[3:]).returncode == 0
    assert serve_check(text, tmp_path, "--no-such-flag").returncode == 64


# ----- certificate, load balancer, verification


CERT_MANAGER = {"tls": {"certManager": {"enabled": True, "issuerRef": {"name": "ca"}}}, "auth": TLS["auth"]}


def test_cert_manager_makes_the_secret_that_the_pods_mount():
    rendered = render(CERT_MANAGER)
    certificate = rendered["Certificate", FULLNAME]["spec"]
    assert certificate["issuerRef"] == {"name": "ca", "kind": "Issuer", "group": "cert-manager.io"}
    for spec in (rendered["StatefulSet", FULLNAME]["spec"]["template"]["spec"], rendered["Pod", f"{FULLNAME}-test-health"]["spec"]):
        [secret] = [volume["secret"]["secretName"] for volume in spec["volumes"] if volume["name"] == "tls"]
        assert secret == certificate["secretName"] == f"{FULLNAME}-tls"
    names = certificate["dnsNames"]
    assert f"{FULLNAME}.{NAMESPACE}.svc" in names and f"*.{FULLNAME}-headless.{NAMESPACE}.svc" in names
    [environment] = [c["env"] for c in rendered["Pod", f"{FULLNAME}-test-health"]["spec"]["containers"]]
    assert f"https://{names[2]}:" in environment[0]["value"]
    assert toml(CERT_MANAGER)["security"]["tls_certificate"] == "/etc/tally/tls/tls.crt"


def test_the_alert_on_expiry_leaves_time_for_the_renewal():
    values = yaml.safe_load(source("helm/tally/values.yaml"))
    hours = int(values["tls"]["certManager"]["renewBefore"].removesuffix("h"))
    assert hours > 24 * values["metrics"]["prometheusRule"]["thresholds"]["certificateDays"]


def test_the_load_balancer():
    plain = render(TLS)["Service", FULLNAME]["spec"]
    assert plain["type"] == "ClusterIP" and plain.keys() == {"type", "selector", "ports"}
    wanted = {"externalTrafficPolicy": "Local", "loadBalancerIP": "192.0.2.1", "loadBalancerClass": "a", "loadBalancerSourceRanges": ["192.0.2.0/24"]}
    balanced = render(merged(TLS, {"service": {"type": "LoadBalancer", "nodePort": 30051, **wanted}}))["Service", FULLNAME]["spec"]
    assert wanted.items() <= balanced.items() and balanced["ports"][0]["nodePort"] == 30051


def verify_job(values):
    return render(merged(TLS, {"verify": {"enabled": True}}, values))["CronJob", f"{FULLNAME}-verify"]


def test_verification_reads_a_copy_of_the_volume():
    """Checks that the job never mounts the service's own claim: the service has locked the data directory, and with
    ReadWriteOncePod a second pod cannot mount the claim."""
    job = verify_job({"persistence": {"storageClassName": "ssd", "size": "1Ti"}})
    spec = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    [volume] = spec["volumes"]
    claim = volume["ephemeral"]["volumeClaimTemplate"]["spec"]
    assert claim["dataSource"] == {"kind": "PersistentVolumeClaim", "name": f"data-{FULLNAME}-0"}
    assert (claim["storageClassName"], claim["resources"]["requests"]["storage"]) == ("ssd", "1Ti")
    assert stateful_set(TLS)["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] == "data"
    [found] = spec["containers"]
    assert found["args"] == ["verify", f"{toml(TLS)['store']['data']}"]
    assert found["volumeMounts"] == [{"name": "copy", "mountPath": "/var/lib/tally", "readOnly": True}]
    snapshot = verify_job({"verify": {"snapshotName": "latest", "storageClassName": "other"}})
    claim = snapshot["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"][0]["ephemeral"]["volumeClaimTemplate"]["spec"]
    assert claim["dataSource"] == {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "latest"}
    assert claim["storageClassName"] == "other"


def test_damage_fails_the_job_at_once_and_an_eviction_does_not():
    spec = verify_job({})["spec"]["jobTemplate"]["spec"]
    [rule] = spec["podFailurePolicy"]["rules"]
    assert rule == {"action": "FailJob", "onExitCodes": {"containerName": "verify", "operator": "In", "values": [1]}}
    assert spec["backoffLimit"] > 0 and spec["template"]["spec"]["restartPolicy"] == "Never"


def test_the_name_of_the_cron_job_is_short_enough():
    rendered = render(merged(TLS, {"verify": {"enabled": True}, "fullnameOverride": "a" * 50}))
    [name] = [name for kind, name in rendered if kind == "CronJob"]
    assert len(name) <= 52


# ----- names


def test_image():
    assert container(TLS)["image"] == "tally:0.1.0"
    everywhere = merged(TLS, {"global": {"imageRegistry": "mirror.example"}, "image": {"registry": "other.example"}, "verify": {"enabled": True}})
    rendered = render(everywhere)
    pods = [rendered["StatefulSet", FULLNAME]["spec"]["template"], rendered["Pod", f"{FULLNAME}-test-health"]]
    pods.append(rendered["CronJob", f"{FULLNAME}-verify"]["spec"]["jobTemplate"]["spec"]["template"])
    assert {c["image"] for found in pods for c in found["spec"]["containers"]} == {"mirror.example/tally:0.1.0"}
    image = {"registry": "registry.example:5000", "repository": "a/b", "tag": "1"}
    assert container(merged(TLS, {"image": image}))["image"] == "registry.example:5000/a/b:1"
    digest = f"sha256:{'a' * 64}"
    assert container(merged(TLS, {"image": {**image, "digest": digest}}))["image"] == f"registry.example:5000/a/b@{digest}"


def test_the_app_version_is_the_crates():
    [version] = re.findall(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    assert container(TLS)["image"] == f"tally:{version}"
    assert f"ARG VERSION={version}" in (ROOT / "Dockerfile").read_text()


def test_the_image_is_compiled_by_the_toolchain_of_the_checkout():
    [channel] = re.findall(r'^channel = "(.*)"$', (ROOT / "rust-toolchain.toml").read_text(), re.MULTILINE)
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"ARG RUST_IMAGE=rust:{channel}-bookworm@sha256:" in dockerfile and f"RUSTUP_TOOLCHAIN={channel} " in dockerfile


def test_names_can_be_replaced():
    rendered = render(merged(TLS, {"fullnameOverride": "other"}))
    assert ("StatefulSet", "other") in rendered and ("Service", "other-headless") in rendered
    assert rendered["StatefulSet", "other"]["spec"]["serviceName"] == "other-headless"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (TRIAL, ["-plaintext", "WARNING: security.allowInsecure is on: no TLS, no tokens"]),
        (TLS, ["-cacert ca.crt", "get secret tally-tls", "Bearer $TOKEN", "TOKEN=", "Secret tally-tokens has only hashes", "--cpu-manager-policy=static"]),
        (CERT_MANAGER, [f"get secret {FULLNAME}-tls"]),
        (merged(TLS, {"verify": {"enabled": True}}), [f"create job --from=cronjob/{FULLNAME}-verify verify-now"]),
        (merged(TLS, {"service": {"type": "LoadBalancer"}}), ["NOTE: service.type is LoadBalancer", "ipBlock"]),
        (merged(TLS, {"persistence": {"enabled": False}}), ["WARNING: persistence.enabled is off"]),
        (REPLICATED, ["has 3 replicas", "tally replica status", "as long as the topic is empty"]),
        (merged(REPLICATED, {"replication": {"init": {"enabled": True}}}), ["leave replication.init.enabled out of the next upgrade"]),
    ],
)
def test_notes_have_a_first_call(values, words, tmp_path):
    # `helm template` omits the notes, and `helm install` needs a cluster. So the test renders the notes as an object in a copy of
    # the chart.
    copy = tmp_path / "tally"
    shutil.copytree(CHART, copy)
    notes = (copy / "templates/NOTES.txt").read_text()
    (copy / "templates/notes.yaml").write_text('{{- define "notes" }}' + notes + "{{ end }}notes: {{ include \"notes\" . | toJson }}")
    (tmp_path / "values.json").write_text(json.dumps(values))
    # fmt: off
    text = yaml.safe_load(helm(
        "template", RELEASE, str(copy), "--namespace", NAMESPACE, "--kube-version", KUBE_VERSIONS[0],
        "--values", str(tmp_path / "values.json"), "--show-only", "templates/notes.yaml",
    ).stdout)["notes"]
    # fmt: on
    for word in [*words, "tally.v1.AccountService/CreateAccount", f"{FULLNAME}.{NAMESPACE}.svc:50051"]:
        assert word in text, text


def test_everything_off_still_renders():
    text = render_text(merged(TRIAL, {
        "networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}, "serviceAccount": {"create": False},
        "test": {"enabled": False}, "persistence": {"enabled": False}, "replicas": 0,
    })).stdout
    kinds = re.findall(r"^kind: (\w+)$", text, re.MULTILINE)
    assert sorted(kinds) == ["ConfigMap", "Service", "Service", "StatefulSet"]
