#!/usr/bin/env python3
"""Whether everything that was rendered is what Kubernetes, and the operators' own kinds, expect.

usage: schemas.py RENDERED...

Strict: a field that a kind does not have is an error, and so is a kind that nobody knows.
"""
import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml

VERSIONS = ("1.30", "1.34", "1.37")
CRDS = yaml.safe_load((pathlib.Path(__file__).parent / "crds.yaml").read_text())


def faults(doc):
    name = f"{doc['kind']}/{doc['metadata']['name']}"
    crd = CRDS.get(f"{doc['apiVersion']}/{doc['kind']}")
    if crd:
        for error in jsonschema.Draft7Validator(crd).iter_errors(doc["spec"]):
            yield f"{name}: {'/'.join(map(str, error.path))}: {error.message}"
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(doc, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{name} ({version}): {'/'.join(map(str, error.path))}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError:
            yield f"{name} ({version}): nobody knows {doc['apiVersion']}/{doc['kind']}"


def main():
    failed, seen = False, set()
    for path in sys.argv[1:]:
        docs = [d for d in yaml.safe_load_all(open(path)) if d]
        # Most of what one render holds was in the one before.
        new = [doc for doc in docs if (text := yaml.safe_dump(doc)) not in seen and not seen.add(text)]
        found = [fault for doc in new for fault in faults(doc)] or ([] if docs else ["nothing was rendered"])
        failed |= bool(found)
        for fault in found:
            print(f"{path}: {fault}")
    sys.exit(failed)


main()
