"""Checks Kubernetes objects with the schemas of Kubernetes, and custom resources with those of their definitions.

    "$(.ci/tools)/python" .ci/manifests.py DEFINITIONS FILE...
"""

import collections
import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml

# An older version, and the newest that the tool supports.
VERSIONS = ("1.32", "1.37")


def closed(schema):
    """The schema without room for unknown members, as the API server prunes or refuses them."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(part) for key, part in schema.items()}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    return schema


def definitions(folder):
    """The schema of each custom kind, by its apiVersion and kind."""
    schemas = {}
    for path in pathlib.Path(folder).glob("*.yaml"):
        definition = yaml.safe_load(path.read_text())["spec"]
        for version in definition["versions"]:
            schema = closed(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            schemas[f"{definition['group']}/{version['name']}", definition["names"]["kind"]] = schema
    return schemas


def main(folder, *files):
    schemas = definitions(folder)
    checked = collections.Counter()
    failed = False
    for file in files:
        for document in yaml.safe_load_all(pathlib.Path(file).read_text()):
            if document is None:
                continue
            kind = document["apiVersion"], document["kind"]
            try:
                if kind in schemas:
                    jsonschema.Draft202012Validator(schemas[kind]).validate(document)
                else:
                    for version in VERSIONS:
                        kubernetes_validate.validate(document, version, strict=True)
            except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
                print(f"{file}: {document['kind']} {document['metadata']['name']}: {error.message}", file=sys.stderr)
                failed = True
            checked[document["kind"]] += 1
    print(", ".join(f"{count} {kind}" for kind, count in sorted(checked.items())))
    unused = {kind for _, kind in schemas} - set(checked)
    if unused:
        print(f"no object of a kind: {', '.join(sorted(unused))}", file=sys.stderr)
    return failed or bool(unused)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
