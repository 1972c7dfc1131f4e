#!/usr/bin/env python3
"""Reduces a render to what can be compared: no keys, which differ each time, and no dashboards, which
are compared where they are generated. Of an alert, where its runbook is.

usage: golden.py RENDERED > GOLDEN
"""
import sys

import yaml


def runbook(annotations):
    return annotations.get("runbook_url", annotations["runbook"])


def main():
    docs = [d for d in yaml.safe_load_all(open(sys.argv[1])) if d]
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
