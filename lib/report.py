"""The report of a run: an HTML page with the text and outputs of its executed notebooks."""

from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

from lib.core import files


def write(folder: Path, notebooks: list[str]) -> Path:
    """Write `report.html` from executed notebooks, without their code.

    Args:
        folder: folder of the run.
        notebooks: names of the notebooks without the suffix, in order.

    Returns:
        The path of the page, in which all images are embedded.
    """
    page = nbformat.v4.new_notebook()
    for name in notebooks:
        page.cells += nbformat.read(folder / f"{name}.ipynb", as_version=4).cells
    # The page must work offline, and contains no formulas, diagrams or widgets.
    exporter = HTMLExporter(
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        require_js_url="",
        mathjax_url="",
        mermaid_js_url="",
        jquery_url="",
    )
    body, _ = exporter.from_notebook_node(page, resources={"metadata": {"name": folder.name}})
    path = folder / "report.html"
    files.write(path, lambda partial: partial.write_text(body, encoding="utf-8"))
    return path
