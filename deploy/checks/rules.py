#!/usr/bin/env python3
"""Writes the alerts of a rendered release as rule files, one for each group, for promtool.

usage: rules.py RENDERED FOLDER

A word in capitals in an expression stands for something of the release, which the render should have put
there.
"""
import pathlib
import re
import sys

import yaml


def main():
    rendered, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    for doc in yaml.safe_load_all(open(rendered)):
        if doc and doc["kind"] == "PrometheusRule":
            for group in doc["spec"]["groups"]:
                for rule in group["rules"]:
                    if left := re.search(r"\b[A-Z]{3,}(_[A-Z]+)*\b", f"{rule['expr']} {rule['labels']}"):
                        sys.exit(f"{rule['alert']} still says {left.group()}")
                    if re.search(r"\bcount\b.* < 1\s*$", rule["expr"], re.S):
                        sys.exit(f"{rule['alert']} of {rule['labels']['component']} can never fire: what is counted is there")
                (folder / f"{group['name']}.yaml").write_text(yaml.safe_dump({"groups": [group]}))


main()
