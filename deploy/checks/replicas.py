#!/usr/bin/env python3
"""Whether a second builder changes nothing in the pod of the first: it would be replaced, or go on without
what it needs beside a second one.

usage: replicas.py CHART HELM
"""
import subprocess
import sys

import yaml


def builder(chart, helm, replicas):
    """The StatefulSet of a release with that many builders."""
    files = (f"{chart}/values-production.yaml", f"{chart}/ci/base.yaml")
    command = [helm, "template", "r", chart, *(word for file in files for word in ("-f", file)),
               "--set", f"builder.replicas={replicas}", "--show-only", "templates/workloads.yaml"]
    docs = yaml.safe_load_all(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    return next(d["spec"] for d in docs if d and d["metadata"]["name"] == "r-preconf-builder")


def main():
    one, two = (builder(*sys.argv[1:], replicas) for replicas in (1, 2))
    differ = sorted(key for key in one.keys() | two.keys() if one.get(key) != two.get(key))
    if differ != ["replicas"]:
        sys.exit(f"one builder and two differ in {', '.join(differ)}, and should in replicas alone")


main()
