"""Write the generated pages of docs/: parameters, commands and recipes (`make docs`)."""

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from lib import __main__ as command_line
from lib.core import params, schema

FOLDER = Path(__file__).parent
RECIPES = yaml.safe_load((FOLDER / "recipes.yaml").read_text(encoding="utf-8"))
SCHEMA = schema.Params.model_json_schema()
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
PATTERNS = {f"^{schema.NAME}$": "letters, digits, - and _", "^[0-9a-f]{64}$": "64 hexadecimal digits"}


def parameters() -> str:
    """Return the page of the parameters: a table for each section of the schema."""
    return _page(
        "Parameters",
        "lib/core/schema.py",
        "All keys of a file in `params/`. They are also the keys of `SET=` and of a notebook's parameters cell.",
        "`<name>` stands for a name of your choice. A *required* key has to be set if its section is used.",
        "",
        *_section("", SCHEMA),
    )


def commands() -> str:
    """Return the page of the commands: the targets of make, and the command line with its options."""
    lines = ["## With make", "", "```text", make("help").strip(), "```", "", "## Without make", ""]
    main = command_line.parser()
    subparsers = next(action for action in main._actions if isinstance(action, argparse._SubParsersAction))
    for name, command in subparsers.choices.items():
        lines += [f"### chrysalis {name}", "", f"{command.description.capitalize()}.", ""]
        options = [action for action in command._actions if action.dest != "help"]
        lines += _table(("argument", "meaning"), [(_argument(action), action.help) for action in options])
    return _page("Commands", "Makefile and lib/__main__.py", *lines)


def recipes() -> str:
    """Return the page of the recipes: each value of an author, ours, and the reason if they differ.

    Raises:
        ValueError: a key does not exist, or a value is the author's and has a reason, or is not and has none.
    """
    lines = []
    for name, recipe in RECIPES.items():
        lines += [f"## {name}", "", recipe["summary"].strip(), ""]
        for title, rows in recipe["parts"].items():
            header = ("value", "author", "ours", "", "reason or note")
            lines += [f"### {title}", "", *_table(header, [compare(name, row) for row in rows])]
    return _page(
        "Recipes",
        "docs/recipes.yaml and params/",
        "The five student projects that Chrysalis grew out of: each value as its author describes it, and ours.",
        "Ours are read from the file in `params/` or name the place where to find them.",
        "",
        *lines,
    )


def compare(name: str, row: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """Return the cells of a row of the recipes.

    Args:
        name: name of the parameter file.
        row: `value`, a name; `author`, the value in their words; `key`, the dotted key of ours, with `equals`, the
            author's value as the key takes it if their words differ, and `file`, another parameter file; or
            `ours`, where to find it; `reason`, if and only if ours differs; `note`.

    Raises:
        ValueError: as `recipes`.
    """
    label = f"docs/recipes.yaml: {name}, {row['value']}"
    ours, differs = row.get("ours", ""), "reason" in row
    if "key" in row:
        settings = params.load(row.get("file", name))
        try:
            value = params.pick(settings, row["key"])
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{label}: there is no key {row['key']} in params/") from None
        value = list(value) if isinstance(value, dict) else value
        if differs == (value == row.get("equals", row["author"])):
            expected = "a value that differs" if differs else repr(row.get("equals", row["author"]))
            raise ValueError(
                f"{label}: expected {expected}. Received: {value!r}. A difference needs a reason"
            )
        ours = f"`{row['key']}`: {_code(value)}. {ours}".strip(" .")
    verdict = "differs" if differs else "same"
    return row["value"], str(row["author"]), ours, verdict, row.get("reason", row.get("note", ""))


def make(*words: str) -> str:
    """Return the output of make in a folder that holds only the Makefile and the committed recipes."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(params.ROOT / "Makefile", folder)
        (Path(folder) / "params").mkdir()
        for name in ("demo", *RECIPES):
            (Path(folder) / f"params/{name}.yaml").touch()
        call = ["make", "--no-print-directory", *words]
        return subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True).stdout


def _page(title: str, source: str, *lines: str) -> str:
    return (
        "\n".join([f"# {title}", "", f"*Generated by `make docs` from {source}.*", "", *lines]).strip() + "\n"
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [[str(cell).replace("|", r"\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *cells]]
    return [*lines, ""] if cells else []


def _code(value: object) -> str:
    """Return a value as YAML has it."""
    if isinstance(value, list) and value:
        return ", ".join(map(_code, value))
    words = {True: "true", False: "false", None: "null"}
    return f"`{words[value] if isinstance(value, bool | None) else value}`"


def _argument(action: argparse.Action) -> str:
    name = action.option_strings[0] if action.option_strings else ""
    return f"`{name} {action.metavar}`".replace("` ", "`") + (" *(required)*" if action.required else "")


def _section(path: str, section: dict) -> Iterator[str]:
    """Yield the table of a section, and the headings and tables of the sections in it."""
    fields = section["properties"]
    leaves = [key for key, field in fields.items() if not _sections(field)]
    rows = [(f"`{path}{key}`", *_leaf(fields[key], required=key in section["required"])) for key in leaves]
    yield from _table(("key", "type", "allowed", "default", "meaning"), rows)
    for key, field in fields.items():
        if sections := _sections(field):
            inner = f"{path}{key}{'.<name>' if field.get('type') == 'object' else ''}"
            yield from [f"{'###' if path else '##'} {inner}", ""]
            yield from [field.get("description") or sections[0]["description"], ""]
            # The table shows the defaults of a section; those of named sections are shown here.
            if field.get("type") == "object" and field["default"]:
                yield from ["Default:", "", *_yaml(field["default"]), ""]
            yield from _section(f"{inner}.", _merged(sections))


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
    properties = {tag: sections[0]["properties"][tag] | {"enum": list(kinds)}}
    required = {tag}
    for key in dict.fromkeys(key for section in sections for key in section["properties"] if key != tag):
        takers = {kind: section for kind, section in kinds.items() if key in section["properties"]}
        field = next(iter(takers.values()))["properties"][key]
        only = f" ({tag} {', '.join(takers)})" if len(takers) < len(kinds) else ""
        properties[key] = field | {"description": f"{field.get('description', '')}{only}"}
        required |= {key for section in takers.values() if key in section["required"]}
    return {"required": required, "properties": properties}


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
    if pattern := field.get("pattern"):
        limits.append(PATTERNS.get(pattern, f"of the form `{pattern}`"))
    return " and ".join(limits)


def _yaml(values: dict) -> list[str]:
    """Return a block with named sections as a file in params/ has them, without values that are null."""
    rows = {
        name: {key: item for key, item in inner.items() if item is not None} for name, inner in values.items()
    }
    text = yaml.safe_dump(rows, sort_keys=False, default_flow_style=None, width=110)
    return ["```yaml", text.strip(), "```"]


PAGES = {"parameters.md": parameters, "commands.md": commands, "recipes.md": recipes}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
