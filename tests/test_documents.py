"""The documents: every path, target, command and parameter that they name exists, and the metadata agree."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from lib import __main__ as command_line
from lib.core import params, schema

ROOT = params.ROOT
PATTERNS = ("*.md", "docs/*.md", "outputs/*.md", ".github/**/*.md", ".github/**/*.yml")
PAGES = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOLDERS = ("lib", "tests", "docs", "params", "notebooks", "benchmarks", ".github", ".ci")
# Names that stand for a user's own parameter file, or for any.
PLACEHOLDERS = ["mine", "<name>"]
FILE = re.compile(r"[\w.-]+\.(md|py|yaml|yml|toml|txt|cff|ipynb)")
RESULT = re.compile(r"[\w/<>.-]+\.(csv|json|html|keras|png|npy|npz)")
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code(page: Path) -> list[str]:
    """Return the texts between backticks and the lines of the code blocks of a page."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```.*?^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    return [
        *re.findall(r"`([^`\n]+)`", text),
        *re.findall(r"^(?:    |- run: ).*$", text, re.MULTILINE),
        *lines,
    ]


def words(page: Path) -> set[str]:
    """Return the words in the code of a page that could be paths."""
    return {word.strip(".,;:()\"'") for text in code(page) for word in re.split(r"[\s=|`]+", text)}


def listed(name: str) -> list[str]:
    """Return the words of a list of the Makefile."""
    match = re.search(rf"^{name} := (.*)$", MAKEFILE, re.MULTILINE)
    assert match
    return match[1].split()


def targets() -> set[str]:
    """Return the targets of make, with placeholders."""
    names = [*params.names(), *PLACEHOLDERS]
    families = {f"{verb}-{name}" for verb in listed("VERBS") for name in names}
    return {*listed("COMMANDS"), *names, *families}


def exists(word: str, page: Path) -> bool:
    """Return whether a path, which may have placeholders and wildcards, exists."""
    folders = (ROOT, page.parent, ROOT / "notebooks", ROOT / "params")
    return any(any(folder.glob(re.sub(r"<\w+>", "*", word.rstrip("/")))) for folder in folders)


@every_page
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


@every_page
def test_targets_of_make_exist(page):
    lines = [re.match(r"(?:- run:|) *make((?: (?![A-Z]+=)[\w<>-]+)+)", text) for text in code(page)]
    named = {target for line in lines if line for target in line[1].split()}
    assert sorted(named - targets()) == []


@every_page
def test_variables_of_make_exist(page):
    named = {name for text in code(page) if "make" in text for name in re.findall(r"\b([A-Z]+)=", text)}
    assert named <= {*listed("VARIABLES"), "PYTHON", "GPU"}


@every_page
def test_commands_exist(page):
    named = {name for text in code(page) for name in re.findall(r"\bchrysalis ([a-z]\w*)", text)}
    usage = command_line.parser().format_help()
    assert [name for name in named if not re.search(rf"^ +{name} ", usage, re.MULTILINE)] == []


@every_page
def test_paths_exist(page):
    own = [f"params/{name}.yaml" for name in PLACEHOLDERS]
    paths = {word for word in words(page) if "/" in word and word.split("/")[0] in FOLDERS}
    paths |= {word for word in words(page) if FILE.fullmatch(word)}
    assert [word for word in sorted(paths) if word not in own and not exists(word, page)] == []


@pytest.mark.parametrize(
    ("word", "is_there"),
    [
        ("lib/core/cache.py", True),
        ("params/<name>.yaml", True),
        ("01_download.ipynb", True),
        ("lib/core/nothing.py", False),
        ("nothing.md", False),
    ],
)
def test_a_missing_path_is_noticed(word, is_there):
    assert exists(word, ROOT / "README.md") == is_there


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_results_are_written_somewhere(page):
    patterns = ("lib/**/*.py", "notebooks/*.ipynb", "params/*.yaml")
    text = "".join(path.read_text(encoding="utf-8") for pattern in patterns for path in ROOT.glob(pattern))
    named = {word.split("/")[-1] for word in words(ROOT / page) if RESULT.fullmatch(word)}
    # Numbers and keys in names may come from parameters.
    assert named and [name for name in sorted(named) if re.split(r"[\d<]", name)[0] not in text] == []


def test_parameters_exist():
    sections = "|".join(schema.Params.model_fields)
    key = re.compile(rf"(?:{sections})(?:\.[a-z_0-9]+)+")
    named = {
        word for page in PAGES for word in words(page) if key.fullmatch(word) and not RESULT.fullmatch(word)
    }
    parts = schema.Params.model_json_schema()["$defs"].values()
    known = {name for part in parts for name in part.get("properties", {})}
    assert named and [word for word in sorted(named) if word.split(".")[1] not in known] == []


def test_the_citation_and_the_changelog_have_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased" and headings[1].startswith(f"{PROJECT['version']} - ")


def test_ci_runs_on_every_python_that_the_package_allows():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert PROJECT["requires-python"] == ">=3.11,<3.14" and versions == ["3.11", "3.12", "3.13"]


@pytest.mark.parametrize("name", params.names())
def test_every_recipe_is_among_the_data_sets(name):
    text = (ROOT / "docs/datasets.md").read_text(encoding="utf-8")
    source = params.load(name).source
    # Recipes that extend another one share its photos.
    assert f"`{source.name}`" in text
    assert not isinstance(source, schema.Kaggle) or f"`{source.dataset or source.competition}`" in text


def test_the_project_names_no_folder_outside_it():
    outside = b"../" + b"shared"
    files = [
        path
        for folder in ("lib", "tests", "docs", "params", "benchmarks")
        for path in (ROOT / folder).rglob("*")
    ]
    files += [path for pattern in ("*", "notebooks/*.ipynb", ".github/**/*") for path in ROOT.glob(pattern)]
    assert [path for path in files if path.is_file() and outside in path.read_bytes()] == []


def test_each_of_ten_papers_has_a_link_and_a_module():
    text = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    papers = re.split(r"^\d+\. ", text, flags=re.MULTILINE)[1:]
    assert len(papers) == 10
    assert all("https://arxiv.org/abs/" in paper and "`lib/" in paper for paper in papers)
