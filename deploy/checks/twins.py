#!/usr/bin/env python3
"""Whether releases beside each other share no object: of one name in two namespaces, of two in one.

usage: twins.py HELM CHART -f VALUES...

What is for Grafana goes into a namespace of its own, and is everybody's there.
"""
import itertools
import subprocess
import sys

import yaml

RELEASES = (("r", "a"), ("r", "b"), ("s", "a"))


def objects(helm, chart, values, release, namespace):
    """The objects of a release: kind, namespace and name."""
    grafana = ["--set", "monitoring.dashboards.namespace=grafana"]
    command = [helm, "template", release, chart, "-n", namespace, *values, *grafana]
    rendered = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    metadata = [(doc["kind"], doc["metadata"]) for doc in yaml.safe_load_all(rendered) if doc]
    return {(kind, about.get("namespace", namespace), about["name"]) for kind, about in metadata}


def main():
    helm, chart, *values = sys.argv[1:]
    releases = {of: objects(helm, chart, values, *of) for of in RELEASES}
    faults = [f"{' '.join(shared)} is of {'/'.join(one[::-1])} and of {'/'.join(other[::-1])}"
              for one, other in itertools.combinations(RELEASES, 2) for shared in sorted(releases[one] & releases[other])]
    faults += [f"{'/'.join(of[::-1])} has nothing for Grafana" for of, made in releases.items()
               if not any(namespace == "grafana" for _, namespace, _ in made)]
    print(*faults, sep="\n", end="\n" if faults else "")
    sys.exit(bool(faults))


main()
