#!/usr/bin/env python3
"""Writes the chart's README from its values and its head.

usage: readme.py CHART            writes README.md from README.head.md and values.yaml
       readme.py CHART --check    exit 1 if it is not what would be written

A key has a comment `# --` above it, and further lines of it; a key without one is not in the table,
and a leaf without one is an error.
"""
import json
import pathlib
import re
import sys

import yaml

KEY = re.compile(r"^( *)([A-Za-z0-9_./-]+|\"[^\"]+\"):(.*)$")


def documented(text):
    """Yields (path, comment) in the order of the file; the comment of a bare `# --` is empty."""
    path, comment, at = [], None, []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# --"):
            comment = stripped.removeprefix("# --").strip()
        elif stripped.startswith("#") and comment is not None:
            comment += " " + stripped.removeprefix("#").strip()
        elif match := KEY.match(line):
            indent, key = len(match[1]), match[2].strip('"')
            while at and at[-1] >= indent:
                at.pop()
                path.pop()
            at.append(indent)
            path.append(key)
            if comment is not None:
                yield ".".join(path) if "." not in key else "/".join(path), list(path), comment
            comment = None
        else:
            comment = None


def value_at(values, path):
    for key in path:
        values = values[key]
    return values


def leaves(values, path=()):
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from leaves(value, (*path, key))
    else:
        yield path


def table(values, rows):
    lines = ["| key | default | what it is |", "|---|---|---|"]
    for name, path, comment in rows:
        default = json.dumps(value_at(values, path))
        if len(default) > 60:
            default = "see values.yaml"
        said = (comment or same_as(rows, path)).replace("|", "\\|")
        lines.append(f"| `{name}` | `{default}` | {said} |")
    return "\n".join(lines)


def same_as(rows, path):
    """What `defaults` says of a key that a component only sets anew."""
    for _, other, comment in rows:
        if other[0] == "defaults" and other[1:] == path[1:]:
            return comment
        # A run of keys that are documented together with the first of them.
        if other[:-1] == path[:-1] and comment and len(path) > 1 and path[0] == "tls":
            return comment
    return ""


def main():
    chart = pathlib.Path(sys.argv[1])
    text = (chart / "values.yaml").read_text()
    values, rows = yaml.safe_load(text), list(documented(text))
    covered = [tuple(path) for _, path, _ in rows]
    bare = [".".join(leaf) for leaf in leaves(values) if not any(leaf[: len(c)] == c for c in covered)]
    if bare:
        sys.exit(f"values.yaml says nothing about {', '.join(bare)}")
    wanted = (chart / "README.head.md").read_text() + "\n## Values\n\n" + table(values, rows) + "\n"
    readme = chart / "README.md"
    if "--check" not in sys.argv:
        readme.write_text(wanted)
    elif not readme.exists() or readme.read_text() != wanted:
        sys.exit("the chart's README.md is not what its values say: see deploy/check --write")


main()
