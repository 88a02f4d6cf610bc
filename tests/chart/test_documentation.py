"""Checks that every value is documented, and that the schema contains exactly the values of values.yaml."""

import json

import document
import pytest
import yaml
from metrics import METRICS
from support import CHART, ROOT


def test_the_readme_agrees_with_values_yaml():
    assert document.README.read_text() == document.readme_with(document.table())


def test_a_value_without_a_comment_is_found(tmp_path, monkeypatch):
    text = document.VALUES.read_text()
    broken = tmp_path / "values.yaml"
    broken.write_text(text.replace("  # -- Repository.\n", ""))
    assert broken.read_text() != text
    monkeypatch.setattr(document, "VALUES", broken)
    with pytest.raises(document.Undocumented, match="image.repository"):
        document.table()


def test_schema_and_values_have_the_same_keys():
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(values, node, path):
        node = schema["definitions"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node
        if "properties" not in node:
            return
        # Optional keys that are in the schema but not in values.yaml: most keys of the breaker, the timeout of the startup probe.
        missing = set() if path == "config.breaker" else node["properties"].keys() - (values or {}).keys()
        missing -= {"timeoutSeconds"} if path == "probes.startup" else set()
        assert not missing, f"{path}: {missing} in the schema, not in values.yaml"
        # `global` is shared with other charts, which may have other keys in it.
        assert path == "global" or node["additionalProperties"] is False, path
        for key, value in (values or {}).items():
            assert key in node["properties"], f"{path}.{key} is in values.yaml, not in the schema"
            compare(value, node["properties"][key], f"{path}.{key}".lstrip("."))

    compare(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")


def test_operations_has_every_section():
    text = (ROOT / "docs/operations.md").read_text()
    for section in ("Install", "Size", "Upgrade", "Back up", "Restore", "Rotate certificates", "Alerts"):
        assert f"\n## {section}\n" in text


@pytest.mark.parametrize("path", ["docs/operations.md", "helm/tally/README.md", *sorted(f"docs/runbooks/{p.name}" for p in (ROOT / "docs/runbooks").glob("*.md"))])
def test_links_have_targets(path):
    import re

    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / path).read_text()):
        if not target.startswith("http"):
            assert (ROOT / path).parent.joinpath(target).exists(), target


def test_alerts_and_dashboard_use_documented_metrics_and_labels():
    """docs/metrics.md is generated from the service."""
    rows = [line.split(" | ") for line in (ROOT / "docs/metrics.md").read_text().splitlines() if line.startswith("| `tally_")]
    documented = {row[0].strip("|` "): (row[1], row[3]) for row in rows}
    assert len(documented) > 30
    for series, labels in METRICS.items():
        base = series.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
        kind, text = documented[base if base in documented else series]
        shown = {"le"} if kind == "histogram" and series.endswith("_bucket") else set()
        shown |= {cell.split(":")[0].strip("` ") for cell in text.split(";") if cell.strip()}
        assert labels == shown, f"{series}: {labels} in tests/chart/metrics.py, {shown} in docs/metrics.md"
