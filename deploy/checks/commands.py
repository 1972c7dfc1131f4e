#!/usr/bin/env python3
"""Whether the commands of the documentation are about what the chart installs.

usage: commands.py RENDERED...

What a kubectl or helm command names has to be in one of the renders: objects, labels, containers, ports.
So has every FULLNAME-… in the text. A command says in which namespace it is to be run, or nobody can paste
it. RELEASE, FULLNAME, NAMESPACE and COMPONENT stand for a release's own, `preconf-` begins the names of one
that is called so, and another word in capitals is what the reader knows.
"""
import pathlib
import re
import shlex
import sys

import yaml

ROOT = pathlib.Path(__file__).parents[2]
CHART = ROOT / "deploy/k8s/preconf"
COMPONENTS = tuple(yaml.safe_load((CHART / "files/components.yaml").read_text()))
INSTANCE = "app.kubernetes.io/instance"
KINDS = {"po": "pod", "deploy": "deployment", "sts": "statefulset", "svc": "service",
         "pvc": "persistentvolumeclaim", "cm": "configmap"}
# Options that have a value as a word of its own.
VALUED = {"-n", "-l", "-c", "-o", "-L", "-f"}
# Verbs of kubectl by what follows them: a kind and names, one pod or thing, or nothing of the chart's.
OF_KIND = {"get", "describe", "delete", "scale", "wait", "patch", "annotate", "label"}
OF_ONE = {"exec", "logs", "port-forward"}
OF_NOTHING = {"create", "apply"}
OF_RELEASE = {"upgrade", "rollback", "test", "uninstall", "history", "status"}


def kind_of(word):
    """The kind that a word means: singular, in full."""
    word = word.lower()
    one = re.sub(r"(?<=[^s])s$", "", re.sub(r"ies$", "y", word))
    return KINDS.get(word) or KINDS.get(one, one)


class Cluster:
    """What the renders together would put into a cluster."""

    def __init__(self):
        self.labels, self.containers, self.ports = {}, {}, {}

    def install(self, docs):
        """Adds a release, with FULLNAME and RELEASE in the place of its own."""
        first = next(doc["metadata"] for doc in docs if doc["kind"] in ("Deployment", "StatefulSet"))
        fullname = first["name"].removesuffix("-" + first["labels"]["app.kubernetes.io/component"])
        release = first["labels"][INSTANCE]
        for doc in docs:
            kind, name, spec = doc["kind"].lower(), doc["metadata"]["name"], doc.get("spec") or {}
            own = lambda name: re.sub(rf"^{re.escape(fullname)}\b", "FULLNAME", name)
            labels = lambda of: {**of, INSTANCE: "RELEASE"} if of.get(INSTANCE) == release else of
            self.add(kind, own(name), labels(doc["metadata"].get("labels") or {}))
            if kind == "service":
                self.ports.setdefault(own(name), set()).update(str(port["port"]) for port in spec["ports"])
            if kind == "certificate":
                self.add("secret", own(spec["secretName"]), {})
            if kind in ("deployment", "statefulset"):
                self.add_pods(kind, own(name), spec, labels(spec["template"]["metadata"]["labels"]))

    def add(self, kind, name, labels):
        self.labels.setdefault(kind, {}).setdefault(name, []).append(labels)

    def add_pods(self, kind, name, spec, labels):
        # Those of a Deployment have names that nobody can write down.
        for at in range(spec.get("replicas", 1)) if kind == "statefulset" else ["…"]:
            self.add("pod", f"{name}-{at}", labels)
            for claim in spec.get("volumeClaimTemplates") or []:
                self.add("persistentvolumeclaim", f"{claim['metadata']['name']}-{name}-{at}", {})
            for of in (f"pod/{name}-{at}", f"{kind}/{name}"):
                self.containers.setdefault(of, set()).update(c["name"] for c in spec["template"]["spec"]["containers"])

    def selected(self, kinds, wanted):
        """Whether there is an object of one of the kinds with all these labels."""
        return any(all(labels.get(key) in values for key, values in wanted.items())
                   for kind in kinds for found in self.labels.get(kind, {}).values() for labels in found)


def meant(text):
    """What a name stands for: one for each component if it says COMPONENT, none if the reader knows it."""
    text = re.sub(r"\bpreconf-(?=\w)", "FULLNAME-", text)
    found = [text.replace("COMPONENT", component) for component in COMPONENTS] if "COMPONENT" in text else [text]
    return [one for one in found if not set(re.findall(r"[A-Z]{2,}|…", one)) - {"FULLNAME", "RELEASE"}]


def requirements(selector):
    """A label selector: the values that each label may have."""
    wanted = {}
    for one in re.findall(r"[^,(]+(?:\([^)]*\))?", selector):
        key, values = re.fullmatch(r"\s*([\w./-]+)\s*(?:==?|in)\s*(.*)", one).groups()
        wanted[key] = {value.strip() for value in values.strip("()").split(",")}
    return wanted


def split(words):
    """The options of a command, its other words, and what comes after `--`."""
    after = words[words.index("--") + 1:] if "--" in words else []
    words = words[:words.index("--")] if "--" in words else words
    options, rest, at = {}, [], 0
    while at < len(words):
        word, at = words[at], at + 1
        if word in VALUED and at < len(words):
            options[word], at = words[at], at + 1
        elif word.startswith("-"):
            name, _, value = word.partition("=")
            options[name] = value
        else:
            rest.append(word)
    return options, rest, after


def targets(verb, words):
    """What a command is about: (kind, name), without a name for all of a kind."""
    if verb in OF_ONE:
        kind, _, name = words[0].rpartition("/") if words else ("", "", "")
        return [(kind_of(kind or "pod"), name)] if name else []
    if any("/" in word for word in words):
        return [(kind_of(word.split("/")[0]), word.split("/")[1]) for word in words]
    kinds = [kind_of(kind) for kind in words[0].split(",")] if words else []
    return [(kind, name) for kind in kinds for name in words[1:] or [""]]


def kubectl(words, cluster):
    """Yields what is wrong with a command of kubectl."""
    options, rest, after = split(words)
    if len(rest) < 2 and not options:
        return
    verb, rest = rest[0], rest[1:]
    if verb == "rollout":
        rest = rest[1:]
        verb = "get"
    if verb == "create" and rest[:1] == ["namespace"]:
        return
    if not {"-n", "-A"} & options.keys():
        yield "says no namespace"
    if verb not in OF_KIND | OF_ONE | OF_NOTHING:
        yield f"has the verb {verb}, which this check does not know"
    if verb in OF_NOTHING:
        return
    about = targets(verb, rest[:1] if verb in OF_ONE else rest)
    if verb != "get" and "-l" not in options and not any(name for _, name in about) and not after:
        yield "says of what kind, but not which"
    for kind, name in about:
        for one in meant(name) if name else []:
            if one not in cluster.labels.get(kind, {}):
                yield f"names the {kind} {one}"
            container, of = options.get("-c"), f"{kind}/{one}"
            if container and container not in cluster.containers.get(of, ()):
                yield f"names the container {container} of {one}"
            if verb == "port-forward" and (port := rest[1].split(":")[-1]) not in cluster.ports.get(one, ()):
                yield f"names the port {port} of {one}"
    for selector in meant(options.get("-l", "")):
        if selector and not cluster.selected([kind for kind, _ in about], requirements(selector)):
            yield f"selects by {selector}"
    if after and after[0] != "/preconf":
        yield f"runs {after[0]}, and images hold nothing but /preconf"


def helm(words, values):
    """Yields what is wrong with a command of helm."""
    options, rest, _ = split(words)
    if rest[:1] and rest[0] in OF_RELEASE and len(rest) > 1 and "…" not in words and "-n" not in options:
        yield "says no namespace"
    for setting in [words[at + 1] for at, word in enumerate(words[:-1]) if word in ("--set", "--set-file")]:
        tree = values
        for key in setting.split("=")[0].split("."):
            tree = tree.get(key) if isinstance(tree, dict) else None
        if tree is None:
            yield f"sets {setting}"


def commands(text):
    """The commands in blocks and between backticks."""
    text = re.sub(r"\\\n\s*", "", text)
    fenced = re.compile(r"^```.*?^```$", re.M | re.S)
    code = [line for block in fenced.findall(text) for line in block.splitlines()]
    text = fenced.sub("", text)
    code += [line for line in text.splitlines() if line.startswith("    ") and "`" not in line]
    code += [re.sub(r"\s+", " ", inline) for inline in re.findall(r"`([^`]+)`", text)]
    for line in code:
        for part in re.split(r"\s(?:\|\|?|&&?|;)(?:\s|$)", line):
            if found := re.search(r"(?:^|[\s(])((?:kubectl|helm) .*)", part):
                yield found.group(1)


def main():
    cluster = Cluster()
    for path in sys.argv[1:]:
        cluster.install([doc for doc in yaml.safe_load_all(open(path)) if doc])
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    names = {name for found in cluster.labels.values() for name in found}
    faults, count = [], 0
    for path in [CHART / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = path.read_text()
        for command in commands(text):
            tool, *words = shlex.split(command, comments=True)
            count += 1
            wrong = kubectl(words, cluster) if tool == "kubectl" else helm(words, values)
            faults += [f"{path.relative_to(ROOT)}: `{command.strip()}` {fault}" for fault in wrong]
        for name in re.findall(r"\bFULLNAME-[A-Za-z0-9-]+\b", text):
            faults += [f"{path.relative_to(ROOT)} names {name}: there is no {one}" for one in meant(name) if one not in names]
    if count < 20:
        faults.append(f"only {count} commands were found")
    print(*dict.fromkeys(faults), sep="\n", end="\n" if faults else "")
    sys.exit(bool(faults))


main()
