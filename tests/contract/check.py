"""Checks what `attio-bridge contract` prints with the tools of the Python world. Standard input and output are JSON.

check.py validate   {schemas, documents: [{schema, value}]}: the errors of each document, by jsonschema
check.py types      the same: how each document differs that generated types have read and written again
check.py yaml       {documents: [text]}: the JSON of each, as a parser of YAML 1.1 reads it
"""

import importlib.util
import json
import pathlib
import sys
import tempfile
from datetime import datetime

import yaml
from datamodel_code_generator import DataModelType, Formatter, InputFileType, generate
from jsonschema import Draft202012Validator


def validate(given):
    validators = {}
    for name, schema in given["schemas"].items():
        Draft202012Validator.check_schema(schema)
        validators[name] = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    for document in given["documents"]:
        found = validators[document["schema"]].iter_errors(document["value"])
        yield [f"{'/'.join(map(str, error.absolute_path))} {error.message}" for error in found]


def comparable(value):
    """The value with times as times: a type may write `.660Z` as `.66Z`."""
    if isinstance(value, dict):
        return {name: comparable(member) for name, member in value.items()}
    if isinstance(value, list):
        return [comparable(item) for item in value]
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return value


def types(given):
    with tempfile.TemporaryDirectory() as folder:
        models = {name: model(name, schema, pathlib.Path(folder)) for name, schema in given["schemas"].items()}
        for document in given["documents"]:
            read = models[document["schema"]].model_validate_json(json.dumps(document["value"]))
            written = json.loads(read.model_dump_json(exclude_unset=True, by_alias=True))
            same = comparable(written) == comparable(document["value"])
            yield [] if same else [f"{document['value']} became {written}"]


def model(name, schema, folder):
    path = folder / f"{name.replace('.', '_').replace('-', '_')}.py"
    generate(
        json.dumps(schema),
        input_file_type=InputFileType.JsonSchema,
        output=path,
        output_model_type=DataModelType.PydanticV2BaseModel,
        class_name="Event",
        formatters=[Formatter.BUILTIN],
    )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module.Event


def read_yaml(given):
    for text in given["documents"]:
        yield yaml.safe_load(text)


checks = {"validate": validate, "types": types, "yaml": read_yaml}
json.dump(list(checks[sys.argv[1]](json.load(sys.stdin))), sys.stdout)
