"""Checks the chart with a replicated store where it differs from the chart with the embedded store."""

import os
import re
import subprocess
import tomllib

import pytest
import yaml
from support import CHART, FULLNAME, NAMESPACE, RELEASE, REPLICATED, REPLICATED_TRIAL, ROOT, TLS, container, merged, pod, render, render_ci, stateful_set

SELECTOR = {"app.kubernetes.io/name": "tally", "app.kubernetes.io/instance": RELEASE, "app.kubernetes.io/component": "ledger"}
CLAIM = {"replication": {"init": {"enabled": True, "existingClaim": f"data-{FULLNAME}-0"}}}


def url(ordinal, scheme="https"):
    return f"{scheme}://{FULLNAME}-{ordinal}.{FULLNAME}-headless.{NAMESPACE}.svc:50051"


def replicated_settings(values):
    return tomllib.loads(render(values)["ConfigMap", FULLNAME]["data"]["tally.toml"])["store"]["replicated"]


def variables(found):
    return {variable["name"]: variable.get("value") for variable in found["env"]}


def init_job(values):
    return render(merged(REPLICATED, {"replication": {"init": {"enabled": True}}}, values))["Job", f"{FULLNAME}-init"]


# ----- addresses and files


def test_all_replicas_have_the_same_settings_and_each_its_own_address():
    settings = replicated_settings(REPLICATED)
    assert settings["peers"].split(",") == [url(0), url(1), url(2)]
    assert "advertise" not in settings
    environment = container(REPLICATED)["env"]
    names = [variable["name"] for variable in environment]
    # In the value of a variable, Kubernetes replaces only variables that are defined earlier in the list.
    assert names.index("TALLY_POD_NAME") < names.index("TALLY__STORE__REPLICATED__ADVERTISE")
    advertised = variables(container(REPLICATED))["TALLY__STORE__REPLICATED__ADVERTISE"]
    assert [advertised.replace("$(TALLY_POD_NAME)", f"{FULLNAME}-{ordinal}") for ordinal in range(3)] == [url(0), url(1), url(2)]
    assert replicated_settings(REPLICATED_TRIAL)["peers"].startswith(url(0, "http"))
    assert len(replicated_settings(merged(REPLICATED, {"replicas": 5}))["peers"].split(",")) == 5


def test_the_addresses_are_names_that_the_headless_service_gives():
    rendered = render(REPLICATED)
    service = rendered["Service", f"{FULLNAME}-headless"]["spec"]
    assert service["clusterIP"] == "None" and service["publishNotReadyAddresses"] is True
    assert 50051 in [port["port"] for port in service["ports"]]
    assert rendered["StatefulSet", FULLNAME]["spec"]["serviceName"] == f"{FULLNAME}-headless"
    assert "publishNotReadyAddresses" not in render(TLS)["Service", f"{FULLNAME}-headless"]["spec"]


def test_every_file_of_the_settings_is_mounted():
    values = merged(REPLICATED, {"replication": {"brokers": {"clientCertificate": {"existingSecret": "kafka-client"}}}})
    paths = {key: path for key, path in replicated_settings(values).items() if key.endswith("_file")}
    assert paths.keys() == {"tls_ca_file", "tls_cert_file", "tls_key_file", "sasl_password_file", "peer_ca_file", "peer_token_file"}
    mounts = {mount["mountPath"]: mount["name"] for mount in container(values)["volumeMounts"] if mount.get("readOnly")}
    volumes = {volume["name"]: volume for volume in pod(values)["volumes"]}
    secrets = {}
    for key, path in paths.items():
        directory, name = path.rsplit("/", 1)
        secret = volumes[mounts[directory]]["secret"]
        # The service does not run as root. Its group lets it read the files.
        assert secret["defaultMode"] == 0o440
        assert name in [item["path"] for item in secret["items"]]
        secrets[key] = secret["secretName"]
    assert secrets["tls_cert_file"] == secrets["tls_key_file"] == "kafka-client"
    assert (secrets["tls_ca_file"], secrets["sasl_password_file"]) == ("kafka-ca", "kafka-password")
    assert (secrets["peer_ca_file"], secrets["peer_token_file"]) == ("tally-tls", "tally-peer")
    assert not [key for key in replicated_settings(REPLICATED_TRIAL) if key.endswith("_file")]


def test_cert_manager_writes_the_ca_of_the_replicas():
    values = {**REPLICATED, "tls": {"certManager": {"enabled": True, "issuerRef": {"name": "ca"}}}}
    values = merged(values, {"replication": {"peerCa": {"existingSecret": ""}}})
    [volume] = [volume for volume in pod(values)["volumes"] if volume["name"] == "peer-ca"]
    assert volume["secret"]["secretName"] == f"{FULLNAME}-tls" and volume["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]
    certificate = render(values)["Certificate", FULLNAME]["spec"]
    assert f"*.{FULLNAME}-headless.{NAMESPACE}.svc" in certificate["dnsNames"] and "client auth" not in certificate["usages"]
    mutual = render(merged(values, {"tls": {"clientCa": {"existingSecret": "clients"}}}))["Certificate", FULLNAME]["spec"]
    assert "client auth" in mutual["usages"]


# ----- pods


def test_each_replica_has_a_volume_that_is_kept():
    spec = stateful_set(REPLICATED)["spec"]
    assert spec["replicas"] == 3 and len(spec["volumeClaimTemplates"]) == 1
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}


def test_pods_start_together_and_are_updated_one_by_one():
    spec = stateful_set(REPLICATED)["spec"]
    assert spec["podManagementPolicy"] == "Parallel" and spec["minReadySeconds"] > 0
    assert spec["updateStrategy"] == {"type": "RollingUpdate"}
    embedded = stateful_set(TLS)["spec"]
    assert embedded["podManagementPolicy"] == "OrderedReady" and "minReadySeconds" not in embedded
    assert render(REPLICATED)["PodDisruptionBudget", FULLNAME]["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize("values", [REPLICATED, REPLICATED_TRIAL])
def test_a_replica_is_ready_when_it_has_caught_up_and_may_take_its_time(values):
    found = container(values)
    assert found["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "admin"}
    # A replica that reads the log is alive but not ready, and the kubelet must not restart it.
    assert found["startupProbe"]["httpGet"] == found["livenessProbe"]["httpGet"] == {"path": "/live", "port": "admin"}
    assert found["lifecycle"]["preStop"] == {"sleep": {"seconds": 5}}


def test_replicas_are_on_different_nodes_and_in_different_zones():
    spec = pod(REPLICATED)
    anti = spec["affinity"]["podAntiAffinity"]
    assert anti["requiredDuringSchedulingIgnoredDuringExecution"] == [
        {"labelSelector": {"matchLabels": SELECTOR}, "topologyKey": "kubernetes.io/hostname"}
    ]
    [preferred] = anti["preferredDuringSchedulingIgnoredDuringExecution"]
    assert preferred["podAffinityTerm"]["topologyKey"] == "topology.kubernetes.io/zone"
    [zones] = spec["topologySpreadConstraints"]
    assert (zones["maxSkew"], zones["topologyKey"], zones["whenUnsatisfiable"]) == (1, "topology.kubernetes.io/zone", "ScheduleAnyway")
    assert SELECTOR.items() <= stateful_set(REPLICATED)["spec"]["template"]["metadata"]["labels"].items()
    loose = pod(merged(REPLICATED, {"replication": {"hostAntiAffinity": "preferred", "zoneSpread": ""}}))
    anti = loose["affinity"]["podAntiAffinity"]
    assert "requiredDuringSchedulingIgnoredDuringExecution" not in anti
    assert [term["podAffinityTerm"]["topologyKey"] for term in anti["preferredDuringSchedulingIgnoredDuringExecution"]] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]
    assert "topologySpreadConstraints" not in loose
    assert "affinity" not in pod(TLS) and "topologySpreadConstraints" not in pod(TLS)


def test_the_users_affinity_is_added():
    node = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]}}
    constraint = {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
    spec = pod(merged(REPLICATED, {"affinity": {"nodeAffinity": node}, "topologySpreadConstraints": [constraint]}))
    assert spec["affinity"]["nodeAffinity"] == node and "podAntiAffinity" in spec["affinity"]
    assert [found["topologyKey"] for found in spec["topologySpreadConstraints"]] == ["topology.kubernetes.io/zone", "rack"]
    assert pod(merged(TLS, {"affinity": {"nodeAffinity": node}}))["affinity"] == {"nodeAffinity": node}


def test_the_stop_has_time_for_the_resignation():
    [seconds] = re.findall(r"const RESIGN_TIMEOUT: Duration = Duration::from_secs\((\d+)\);", (ROOT / "src/cli/serve_replica.rs").read_text())
    template = (CHART / "templates/_validate.tpl").read_text()
    assert f"$last = {5 + int(seconds)} }}}}" in template


# ----- network


def test_the_network_policy_allows_the_brokers_and_the_other_replicas():
    policy = render(REPLICATED)["NetworkPolicy", FULLNAME]["spec"]
    own = {"podSelector": {"matchLabels": SELECTOR}}
    assert own in policy["ingress"][0]["from"] and policy["ingress"][0]["ports"][0]["port"] == "grpc"
    names, replicas, brokers = policy["egress"]
    assert [port["port"] for port in names["ports"]] == [53, 53]
    assert replicas == {"to": [own], "ports": [{"port": "grpc", "protocol": "TCP"}]}
    assert brokers == {"ports": [{"port": 9092, "protocol": "TCP"}, {"port": 9093, "protocol": "TCP"}]}


def test_the_brokers_can_be_named():
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kafka"}}}
    values = merged(REPLICATED, {"networkPolicy": {"brokers": [peer], "brokerPorts": [9092, 30092]}, "config": {"telemetry": {"otlp_endpoint": "http://collector:4317"}}})
    egress = render(values)["NetworkPolicy", FULLNAME]["spec"]["egress"]
    assert [[port["port"] for port in rule["ports"]] for rule in egress] == [[53, 53], ["grpc"], [9092, 9093, 30092], [4317]]
    assert egress[2]["to"] == [peer]


# ----- the Job that makes the ledger


def test_no_ledger_is_made_without_being_asked():
    assert ("Job", f"{FULLNAME}-init") not in render(REPLICATED)


def test_a_new_ledger_is_made_before_the_replicas_start():
    job = init_job({})
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install"
    spec = job["spec"]["template"]["spec"]
    # A second attempt must find the directory of the first attempt.
    assert spec["restartPolicy"] == "OnFailure"
    [volume] = [volume for volume in spec["volumes"] if volume["name"] == "data"]
    assert volume == {"name": "data", "emptyDir": {}}
    [found] = spec["containers"]
    assert found["args"] == ["replica", "init", "--create-topic"]
    assert init_job({"replication": {"init": {"createTopic": False}}})["spec"]["template"]["spec"]["containers"][0]["args"] == ["replica", "init"]


def test_an_embedded_ledger_can_become_replicated():
    job = init_job(CLAIM)
    # A release with an embedded ledger exists already, so this is an upgrade.
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    [volume] = [volume for volume in job["spec"]["template"]["spec"]["volumes"] if volume["name"] == "data"]
    assert volume["persistentVolumeClaim"] == {"claimName": f"data-{FULLNAME}-0"}
    [claims] = stateful_set(REPLICATED)["spec"]["volumeClaimTemplates"]
    assert f"{claims['metadata']['name']}-{FULLNAME}-0" == f"data-{FULLNAME}-0"
    directory = tomllib.loads(render(REPLICATED)["ConfigMap", FULLNAME]["data"]["tally.toml"])["store"]["data"]
    [found] = job["spec"]["template"]["spec"]["containers"]
    assert variables(found)["TALLY__STORE__DATA"] == directory
    assert directory.startswith({mount["name"]: mount["mountPath"] for mount in found["volumeMounts"]}["data"])


def test_the_job_mounts_only_what_exists_before_the_installation():
    values = {**REPLICATED, "tls": {"certManager": {"enabled": True, "issuerRef": {"name": "ca"}}}}
    spec = render(merged(values, {"replication": {"init": {"enabled": True}}}))["Job", f"{FULLNAME}-init"]["spec"]["template"]["spec"]
    assert {volume["name"] for volume in spec["volumes"]} == {"data", "brokers-ca", "brokers-password"}
    # Neither the ConfigMap nor the ServiceAccount exists.
    assert "serviceAccountName" not in spec


@pytest.mark.parametrize("values", ["replicated-values.yaml", "replicated-trial-values.yaml"])
def test_the_job_has_the_settings_of_the_service(values, tmp_path):
    """Checks that each setting is the same as in tally.toml, and that the binary accepts all of them as environment variables."""
    documents = render_ci(values)
    [config] = [d["data"]["tally.toml"] for d in documents if d["kind"] == "ConfigMap" and d["metadata"]["name"] == FULLNAME]
    store = tomllib.loads(config)["store"]
    settings = {f"TALLY__STORE__{key.upper()}": value for key, value in store.items() if key != "replicated"}
    settings |= {f"TALLY__STORE__REPLICATED__{key.upper()}": value for key, value in store["replicated"].items()}
    [job] = [d for d in documents if d["kind"] == "Job"]
    [found] = job["spec"]["template"]["spec"]["containers"]
    given = variables(found)
    address = given.pop("TALLY__STORE__REPLICATED__ADVERTISE")
    assert address == url(0, "https" if values == "replicated-values.yaml" else "http")
    assert given == {key: value if isinstance(value, str) else str(value).lower() for key, value in settings.items()}
    environment = {"PATH": os.environ["PATH"], **given, "TALLY__STORE__REPLICATED__ADVERTISE": address, "TALLY__STORE__DATA": str(tmp_path / "none"), "TALLY__AFFINITY__MODE": "off"}
    command = [os.environ["TALLY_BINARY"], "serve", "--check"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert run.returncode == 0, run.stderr
    environment["TALLY__STORE__REPLICATED__BROKERS"] = "kafka"
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert run.returncode == 78 and "store.replicated.brokers" in run.stderr


def test_the_command_of_the_job_exists():
    run = subprocess.run([os.environ["TALLY_BINARY"], "replica", "init", "--help"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0 and "--create-topic" in run.stdout


def test_the_documented_command_runs_another_subcommand_in_the_job():
    """Checks the procedure of docs/replication.md, which replaces one word of the rendered Job."""
    [expression] = re.findall(r"sed '([^']+)'", (ROOT / "docs/replication.md").read_text())
    job = yaml.safe_dump(init_job(merged(CLAIM, {"replicas": 0, "replication": {"init": {"createTopic": False}}})), default_flow_style=False)
    changed = yaml.safe_load(subprocess.run(["sed", expression], input=job, capture_output=True, text=True, check=True, timeout=60).stdout)
    [found] = changed["spec"]["template"]["spec"]["containers"]
    assert found["name"] == "init" and found["args"] == ["replica", "republish"]
    run = subprocess.run([os.environ["TALLY_BINARY"], *found["args"], "--help"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


def test_the_embedded_ledger_has_nothing_of_this():
    text = yaml.safe_dump_all(render(TLS).values())
    assert "REPLICATED" not in text and "replicated" not in text and "/etc/tally/peer" not in text
