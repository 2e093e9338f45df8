"""Write the generated pages of docs/, and the address of the project in 00_start (`make docs`)."""

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from lib import __main__ as command_line
from lib.core import params, schema

FOLDER = Path(__file__).parent
RECIPES = yaml.safe_load((FOLDER / "recipes.yaml").read_text(encoding="utf-8"))
# The committed parameter files.
NAMES = ["demo", *RECIPES, *(name for recipe in RECIPES.values() for name in recipe.get("variants", []))]
SCHEMA = schema.Params.model_json_schema()
# How our value relates to the author's, if it is not the same.
VERDICTS = ("differs", "chosen", "added", "open")
TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "object": "mapping",
    "null": "null",
}
LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
# Patterns of the schema in words.
PATTERNS = {
    f"^{schema.NAME}$": "letters, digits, - and _",
    schema.TRAINABLE: "`none`, `all`, `last N layers` or `last N %`",
    r"^[0-9a-f]{64}$": "64 hexadecimal digits",
    r"^[\w-]+/[\w.-]+(/\d+)?$": "owner/name or owner/name/version",
    r"^[\w-]+$": "letters, digits, - and _",
    r"^\w[\w.-]*\.csv$": "a file name that ends in .csv",
    r"^[\w+]+://": "a URL",
}


def parameters() -> str:
    """Return the page of the parameters: a table for each section of the schema."""
    return _page(
        "Parameters",
        "lib/core/schema.py",
        "All keys of a file in `params/`. `SET=` and a notebook's parameters cell take the same keys.",
        "`<name>` is a name of your choice. A *required* key must be set if its section is used.",
        "",
        *_section("", SCHEMA),
    )


def commands() -> str:
    """Return the page of the commands: the targets of make, and the command line with its options."""
    lines = ["## With make", "", "```text", make("help").strip(), "```", "", "## Without make", ""]
    main = command_line.parser()
    subparsers = next(action for action in main._actions if isinstance(action, argparse._SubParsersAction))
    for name, command in subparsers.choices.items():
        lines += [f"### chrysalis {name}", "", _sentence(command.description or ""), ""]
        actions = sorted(command._actions, key=lambda action: bool(action.option_strings))
        rows = [(_argument(action), action.help or "") for action in actions if action.dest != "help"]
        lines += _table(("argument", "meaning"), rows)
    return _page("Commands", "Makefile and lib/__main__.py", *lines)


def recipes() -> str:
    """Return the page of the recipes: each value of an author, ours, and the reason if they differ.

    Raises:
        ValueError: a key does not exist, a value is not the author's although it should be or the reverse,
            or a reason is missing.
    """
    lines = []
    for name, recipe in RECIPES.items():
        lines += [f"## {name}", "", recipe["summary"].strip(), ""]
        for title, rows in recipe["parts"].items():
            header = ("value", "author", "ours", "", "reason or remark")
            lines += [f"### {title}", "", *_table(header, [compare(name, row) for row in rows])]
    return _page(
        "Recipes",
        "docs/recipes.yaml and params/",
        "The values of the five student projects that Chrysalis began with, as their authors describe",
        "them, and ours, which are read from `params/` or name a file, a command or a notebook.",
        "",
        "- *same*: ours is the author's value",
        "- *differs*: the author has another value",
        "- *chosen*: the author states no value",
        "- *added*: the author plans it or does without it",
        "- *open*: a result of the author that was not repeated",
        "",
        *lines,
    )


def start() -> str:
    """Return the notebook 00_start with the address and the version of pyproject.toml."""
    project = tomllib.loads((params.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = "/".join(project["urls"]["Repository"].split("/")[-2:])
    text = (FOLDER / "../notebooks/00_start.ipynb").read_text(encoding="utf-8")
    text = re.sub(r"(?<=github\.com/|com/github/)[\w.-]+/[\w-]+", repository, text)
    return re.sub(r"\bv\d+\.\d+\.\d+\b", f"v{project['version']}", text)


def compare(name: str, row: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """Compare a value of an author with ours.

    Args:
        name: name of the parameter file.
        row: a row of docs/recipes.yaml, which describes its keys.

    Returns:
        The cells of its row on the page.

    Raises:
        ValueError: as `recipes`.
    """
    label = f"docs/recipes.yaml: {name}: {row['value']}"
    verdict = next((word for word in VERDICTS if word in row), "same")
    remark = row.get("note", "") if verdict == "same" else row[verdict]
    if verdict != "same" and not remark:
        raise ValueError(f"{label}: expected a reason at `{verdict}`. Received: {remark!r}")
    if "key" not in row:
        return row["value"], row["author"], row["ours"], verdict, remark
    try:
        ours = params.pick(params.load(row.get("file", name)), row["key"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{label}: expected a key of params/. Received: {row['key']}") from None
    ours = list(ours) if isinstance(ours, dict) else ours
    expected = row.get("equals", row["author"])
    if (verdict in ("same", "added")) != (ours == expected):
        raise ValueError(f"{label}: the author has {expected!r}, params/ {ours!r}. Received: {verdict}")
    return row["value"], row["author"], f"`{row['key']}`: {_code(ours)}", verdict, remark


def make(*words: str) -> str:
    """Return the output of make in a folder with the Makefile and the committed parameter files only."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(params.ROOT / "Makefile", folder)
        (Path(folder) / "params").mkdir()
        for name in NAMES:
            (Path(folder) / f"params/{name}.yaml").touch()
        call = ["make", "--no-print-directory", *words]
        return subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True).stdout


def _page(title: str, source: str, *lines: str) -> str:
    text = "\n".join([f"# {title}", "", f"*Generated by `make docs` from {source}.*", "", *lines])
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [[str(cell).replace("|", r"\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *cells]]
    return [*lines, ""] if cells else []


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _code(value: object) -> str:
    """Return a value as YAML has it."""
    if isinstance(value, list) and value:
        return ", ".join(map(_code, value))
    return f"`{json.dumps(value) if value in (None, True, False, '') else value}`"


def _argument(action: argparse.Action) -> str:
    words = f"`{' '.join([*action.option_strings, str(action.metavar)])}`"
    return f"{words} *(required)*" if action.required else words


def _section(path: str, section: dict) -> Iterator[str]:
    """Yield the table of a section, and the headings and tables of the sections in it."""
    fields = section["properties"]
    leaves = [key for key, field in fields.items() if not _sections(field)]
    rows = [(f"`{path}{key}`", *_leaf(fields[key], required=key in section["required"])) for key in leaves]
    yield from _table(("key", "type", "allowed", "default", "meaning"), rows)
    for key, field in fields.items():
        if sections := _sections(field):
            inner = f"{path}{key}{'.<name>' if field.get('type') == 'object' else ''}"
            yield from [f"{'###' if path else '##'} `{inner}`", ""]
            merged = _merged(sections)
            yield from [_sentence(field.get("description") or merged["description"]), ""]
            yield from [f"- {_code(kind)}: {text}" for kind, text in merged.get("kinds", {}).items()]
            # A table has the defaults of its section, but not the names in a mapping.
            if field.get("type") == "object" and field["default"]:
                yield from ["", "Default:", "", *_yaml(field["default"], list(merged["properties"]))]
            yield from ["", *_section(f"{inner}.", merged)]


def _sections(field: dict) -> list[dict]:
    """Return the section that a field holds, or one for each kind; empty if it holds a single value."""
    options = [field, *field.get("anyOf", []), field.get("additionalProperties")]
    options = [option for option in options if isinstance(option, dict)]
    options += [kind for option in options for kind in option.get("oneOf", [])]
    names = [option["$ref"].rpartition("/")[2] for option in options if "$ref" in option]
    return [{"required": [], "properties": {}} | SCHEMA["$defs"][name] for name in names]


def _merged(sections: list[dict]) -> dict:
    """Return one section with the keys of all; the meaning of a key that only some kinds take names them."""
    if len(sections) == 1:
        return sections[0]
    tag = next(key for key, field in sections[0]["properties"].items() if "const" in field)
    kinds = {section["properties"][tag]["const"]: section for section in sections}
    tags = sections[0]["properties"][tag] | {"enum": list(kinds)}
    properties = {tag: tags}
    required = {tag}
    for key in dict.fromkeys(key for section in sections for key in section["properties"] if key != tag):
        takers = [kind for kind, section in kinds.items() if key in section["properties"]]
        needers = [kind for kind in takers if key in kinds[kind]["required"]]
        field = kinds[takers[0]]["properties"][key]
        words = [field["description"], f"{tag} {', '.join(takers)}" if len(takers) < len(kinds) else ""]
        if needers == takers:
            required.add(key)
        elif needers:
            words.append(f"required by {', '.join(needers)}")
        properties[key] = field | {"description": "; ".join(filter(None, words))}
    descriptions = {kind: section["description"] for kind, section in kinds.items()}
    return {
        "description": tags["description"],
        "kinds": descriptions,
        "required": required,
        "properties": properties,
    }


def _leaf(field: dict, *, required: bool) -> tuple[str, str, str, str]:
    """Return type, range or allowed values, default and meaning of a single value, in plain words."""
    options = field.get("anyOf", [field])
    kinds = " or ".join(dict.fromkeys(map(_type, options)))
    default = "*required*" if required else _code(field["default"])
    return kinds, ", ".join(filter(None, map(_allowed, options))), default, field.get("description", "")


def _type(field: dict) -> str:
    if field.get("type") == "array":
        return (
            f"list of {' or '.join(dict.fromkeys(map(_type, field['items'].get('anyOf', [field['items']]))))}"
        )
    return TYPES[field["type"]]


def _allowed(field: dict) -> str:
    if "items" in field:
        return _allowed(field["items"])
    if "enum" in field:
        return f"one of {_code(field['enum'])}"
    limits = [f"{word} {field[key]}" for key, word in LIMITS.items() if key in field]
    if {"minimum", "maximum"} <= field.keys():
        limits = [f"{field['minimum']} to {field['maximum']}"]
    if pattern := field.get("pattern"):
        limits.append(PATTERNS.get(pattern, f"of the form `{pattern}`"))
    return " and ".join(limits)


def _yaml(values: dict[str, dict], order: list[str]) -> list[str]:
    """Return a block with named sections as a file in params/ has them, without values that are null."""
    rows = {
        name: {key: inner[key] for key in order if inner.get(key) is not None}
        for name, inner in values.items()
    }
    text = yaml.safe_dump(rows, sort_keys=False, default_flow_style=None, width=110)
    return ["```yaml", text.strip(), "```"]


PAGES = {
    "parameters.md": parameters,
    "commands.md": commands,
    "recipes.md": recipes,
    "../notebooks/00_start.ipynb": start,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8", newline="\n")
