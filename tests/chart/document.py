"""Makes the table of values for helm/tally/README.md from the comments in values.yaml. `--write` updates the README."""

import re
import sys
from pathlib import Path

import yaml

CHART = Path(__file__).resolve().parents[2] / "helm" / "tally"
README, VALUES = CHART / "README.md", CHART / "values.yaml"
BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"


class Undocumented(Exception):
    """A value has no comment."""


def leaves(node, path=()):
    """Yields every value that is not a map with entries, with its path."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, node


def comments(text):
    """Returns the `# --` comment above each key, by the path of the key. The indentation is two spaces per level."""
    found, path, pending = {}, [], None
    item = None  # the indentation of the dash of the current list item; lines with more indentation belong to this item
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        if item is not None and stripped and indent > item:
            continue
        item = indent if stripped.startswith("- ") else None
        if stripped.startswith("# -- "):
            pending = stripped.removeprefix("# -- ")
        elif key := re.match(r"^((?:  )*)([A-Za-z_][\w.]*):(?: |$)", line):
            level = len(key[1]) // 2
            if level > len(path):
                raise ValueError(f"values.yaml:{number}: indented by more than two spaces")
            path = [*path[:level], key[2]]
            if pending is not None:
                found[tuple(path)] = pending
            pending = None
        elif stripped.startswith("#") or not stripped:
            if pending is not None:
                raise ValueError(f"values.yaml:{number}: a `# --` comment that is not directly above a key")
    return found


def table():
    """Returns the table. Raises Undocumented with the values that have no comment."""
    text = VALUES.read_text()
    documented, values = comments(text), yaml.safe_load(text)
    rows, covered, missing = [], set(), []
    for path, default in leaves(values):
        # A comment above a map documents all values in it.
        at = next((path[:length] for length in range(len(path), 0, -1) if path[:length] in documented), None)
        if at is None:
            missing.append(".".join(path))
        elif at not in covered:
            covered.add(at)
            node = values
            for key in at:
                node = node[key]
            rows.append((".".join(at), default if at == path else node, documented[at]))
    if missing:
        raise Undocumented(f"no `# --` line in values.yaml for {', '.join(missing)}")
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for name, default, words in rows:
        shown = yaml.safe_dump(default, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
        lines.append(f"| `{name}` | `{shown}` | {words.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def readme_with(new_table):
    before, rest = README.read_text().split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + new_table + END + after


if __name__ == "__main__":
    wanted = readme_with(table())
    if sys.argv[1:] == ["--write"]:
        README.write_text(wanted)
    elif README.read_text() != wanted:
        sys.exit("helm/tally/README.md is not what values.yaml says; tests/chart/document.py --write")
