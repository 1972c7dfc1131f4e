#!/usr/bin/env python3
"""Reduces a render to what can be compared: no keys, which differ each time, and no dashboards, which
are compared where they are generated. Of an alert, where its runbook is.

usage: golden.py RENDERED > GOLDEN

A key that a map has twice is refused: an API server refuses it, or takes either of them.
"""
import sys

import yaml


def runbook(annotations):
    return annotations.get("runbook_url", annotations["runbook"])


class Loader(yaml.SafeLoader):
    """Takes no map that has a key twice."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        if twice := {key for key in keys if keys.count(key) > 1}:
            sys.exit(f"{sys.argv[1]}: {', '.join(sorted(twice))} is there twice{node.start_mark}")
        return super().construct_mapping(node, deep)


def main():
    docs = [d for d in yaml.load_all(open(sys.argv[1]), Loader) if d]
    for doc in docs:
        if doc["kind"] == "Secret":
            doc["data"] = {name: "(generated)" for name in doc["data"]}
        if doc["kind"] == "ConfigMap" and "dashboard" in doc["metadata"]["name"]:
            doc["data"] = {name: "(generated)" for name in doc["data"]}
        if doc["kind"] == "PrometheusRule":
            for group in doc["spec"]["groups"]:
                group["rules"] = [{rule["alert"]: runbook(rule["annotations"])} for rule in group["rules"]]
    docs.sort(key=lambda doc: (doc["kind"], doc["metadata"]["name"]))
    yaml.safe_dump_all(docs, sys.stdout, sort_keys=True, width=110)


main()
