#!/usr/bin/env python3
"""Whether values that cannot be meant are refused, and for the right reason.

usage: refusals.py CHART HELM...
"""
import concurrent.futures
import pathlib
import re
import subprocess
import sys

import yaml


def complaint(chart, helm, case):
    """What is wrong with the refusal of a case, or None."""
    command = [helm, "template", "r", chart, "-n", "preconf", "-f", f"{chart}/ci/base.yaml", "-f", "-"]
    ran = subprocess.run(command, input=yaml.safe_dump(case["set"]), capture_output=True, text=True, timeout=60)
    name = f"{pathlib.Path(helm).name}: {case['set']}"
    if ran.returncode == 0:
        return f"{name} was not refused"
    # Paths are written with dots by one and with slashes by the other.
    said = " ".join(ran.stderr.split()).replace("/", ".")
    return None if re.search(case["says"].replace("/", "."), said) else f"{name}: refused for another reason: {said}"


def main():
    chart, helms = sys.argv[1], sys.argv[2:]
    cases = yaml.safe_load((pathlib.Path(__file__).parent / "refusals.yaml").read_text())
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(complaint, chart, helm, case) for case in cases for helm in helms]
        faults = [fault for job in jobs if (fault := job.result())]
    print(*faults, sep="\n", end="\n" if faults else "")
    sys.exit(bool(faults))


main()
