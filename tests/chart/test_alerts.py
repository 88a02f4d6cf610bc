"""Checks alerts and dashboard: Prometheus accepts them, alerts fire when they should and at no other time, each has a runbook."""

import json
import os
import re
import subprocess

import pytest
import yaml
from metrics import FOREIGN, METRICS, SCRAPED
from support import CHART, FULLNAME, NAMESPACE, ROOT, TLS, merged, render

ALERTS = sorted(path.stem for path in (CHART / "alerts").glob("*.yaml"))
# The failures for which the product must have an alert.
FAILURES = ["BreakerOpen", "QueueSaturated", "FsyncSlow", "StoreFailed", "PinningLost", "CpuThrottled", "DiskFills"]
FAILURES += ["ClockHeld", "HoldsNearLimit", "DataDamaged", "SecurityStale", "CertificateExpires", "Panicked", "VerifyFailed"]
FAILURES += ["NoLeader", "StandbyLags", "ReplicaStopped"]


def rule_object(values=None):
    base = merged(TLS, {"metrics": {"prometheusRule": {"enabled": True}}, "verify": {"enabled": True}})
    return render(merged(base, values or {}))["PrometheusRule", FULLNAME]


def rules(values=None):
    [group] = rule_object(values)["spec"]["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def panels():
    return json.loads((CHART / "dashboards/tally.json").read_text())["panels"]


def targets():
    return [(panel["title"], target["expr"]) for panel in panels() for target in panel.get("targets", [])]


def promtool(*arguments, cwd):
    run = subprocess.run([os.environ["PROMTOOL"], *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_one_alert_for_each_failure():
    assert sorted(f"Tally{failure}" for failure in FAILURES) == ALERTS == sorted(rules())
    schema = json.loads((CHART / "values.schema.json").read_text())
    exclude = schema["properties"]["metrics"]["properties"]["prometheusRule"]["properties"]["exclude"]
    assert sorted(exclude["items"]["enum"]) == ALERTS


def test_promtool_check_rules(tmp_path):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule_object()["spec"]))
    assert f"SUCCESS: {len(ALERTS)} rules found" in promtool("check", "rules", "rules.yaml", cwd=tmp_path)


def test_promtool_test_rules(tmp_path):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule_object()["spec"]))
    cases = (ROOT / "tests/chart/alerts_test.yaml").read_text()
    (tmp_path / "test.yaml").write_text(cases)
    assert "SUCCESS" in promtool("test", "rules", "test.yaml", cwd=tmp_path)
    # alerts_test.yaml tests each alert twice: a case in which it fires, and a case in which it does not.
    tested = [case for test in yaml.safe_load(cases)["tests"] for case in test["alert_rule_test"]]
    for alert in ALERTS:
        states = [bool(case.get("exp_alerts")) for case in tested if case["alertname"] == alert]
        assert True in states and False in states, alert


def test_promtool_test_rules_can_fail(tmp_path):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule_object()["spec"]).replace("> 0.01", "> 0.99"))
    (tmp_path / "test.yaml").write_text((ROOT / "tests/chart/alerts_test.yaml").read_text())
    with pytest.raises(AssertionError, match="TallyCpuThrottled"):
        promtool("test", "rules", "test.yaml", cwd=tmp_path)


@pytest.mark.parametrize("alert", ALERTS)
def test_runbook(alert):
    rule = rules()[alert]
    assert rule["annotations"]["runbook"] == f"docs/runbooks/{alert}.md"
    linked = rules({"metrics": {"prometheusRule": {"runbookBaseUrl": "https://runbooks.example"}}})[alert]
    assert linked["annotations"]["runbook_url"] == f"https://runbooks.example/{alert}.md"
    text = (ROOT / rule["annotations"]["runbook"]).read_text()
    assert text.startswith(f"# {alert}\n")
    for section in ("## What it means", "## What to look at", "## What to do"):
        assert section in text
    assert f"runbooks/{alert}.md" in (ROOT / "docs/operations.md").read_text()


def test_thresholds_labels_and_exclusion():
    thresholds = {"queueFull": 0.5, "holdsFull": 0.625, "fsyncSeconds": 0.25, "cpuThrottled": 0.125, "diskFree": 0.375, "diskHours": 7}
    thresholds["certificateDays"] = 3
    changed = {"thresholds": thresholds, "exclude": ["TallyBreakerOpen"], "alertLabels": {"team": "a", "severity": "page"}}
    found = rules({"metrics": {"prometheusRule": changed}})
    assert "TallyBreakerOpen" not in found and len(found) == len(ALERTS) - 1
    for alert, number in [("QueueSaturated", "0.5"), ("FsyncSlow", "0.25"), ("CpuThrottled", "0.125"), ("DiskFills", "0.375")]:
        assert f"> {number}" in found[f"Tally{alert}"]["expr"] or f"< {number}" in found[f"Tally{alert}"]["expr"]
    assert "7 * 3600" in found["TallyDiskFills"]["expr"]
    assert "< 3 * 86400" in found["TallyCertificateExpires"]["expr"]
    assert {rule["labels"]["team"] for rule in found.values()} == {"a"}
    # Values cannot change the severity of an alert.
    assert {rule["labels"]["severity"] for rule in found.values()} == {"warning", "critical"}
    assert "TallyPinningLost" not in rules({"pinning": {"enabled": False}})
    assert "TallyVerifyFailed" not in rules({"verify": {"enabled": False}})


def selectors(expression):
    """Returns every metric of an expression, with the labels of its selector."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    for name, braces in re.findall(r"\b((?:tally|kube)_\w+)(\{[^}]*\})?", bare):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", braces))


def test_only_existing_metrics_are_used():
    used = [(alert, rule["expr"]) for alert, rule in rules().items()] + targets()
    found = set()
    for place, expression in used:
        for name, labels in selectors(expression):
            known = METRICS | FOREIGN
            assert name in known, f"{place}: {name}"
            assert labels <= known[name] | SCRAPED, f"{place}: {name} {labels}"
            found.add(name)
    assert found >= METRICS.keys(), f"in no alert and on no panel: {METRICS.keys() - found}"


def test_alerts_select_this_release_only():
    for alert, rule in rules().items():
        name_label, name = ("job_name", f"{FULLNAME}-verify") if alert == "TallyVerifyFailed" else ("pod", FULLNAME)
        for metric, labels in selectors(rule["expr"]):
            assert labels >= {"namespace", name_label}, f"{alert}: {metric}"
        assert f'namespace="{NAMESPACE}",{name_label}=~"{name}-[0-9]+"' in rule["expr"]


def test_prometheus_accepts_every_panel(tmp_path):
    # Prometheus does not know Grafana's variables, so the test replaces them by values, as Grafana does.
    expressions = [re.sub(r"\$__rate_interval", "1m", re.sub(r"\$(namespace|pod)\b", "x", expression)) for _, expression in targets()]
    assert len(expressions) >= 12 and not any("$" in expression for expression in expressions)
    group = {"name": "panels", "rules": [{"record": f"panel_{n}", "expr": e} for n, e in enumerate(expressions)]}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [group]}))
    promtool("check", "rules", "rules.yaml", cwd=tmp_path)


def test_the_dashboard_is_complete():
    rendered = render(merged(TLS, {"metrics": {"dashboard": {"enabled": True, "annotations": {"folder": "x"}}}}))
    config_map = rendered["ConfigMap", f"{FULLNAME}-dashboard"]
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert config_map["metadata"]["annotations"] == {"folder": "x"}
    dashboard = json.loads(config_map["data"]["tally.json"])
    assert dashboard["uid"] and {v["name"] for v in dashboard["templating"]["list"]} == {"datasource", "namespace", "pod"}
    identities = [panel["id"] for panel in dashboard["panels"]]
    assert len(identities) == len(set(identities))
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells)), "panels overlap"
    assert all(p["x"] + p["w"] <= 24 for p in places)
