"""One page of a run: its executed notebooks, text, results and pictures, without the code."""

from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

from lib.core import files


def write(folder: Path, notebooks: list[str]) -> Path:
    """Write `report.html` from executed notebooks.

    Args:
        folder: the run's folder.
        notebooks: names of the steps, in order.

    Returns:
        The path of the page; pictures are inside it.
    """
    page = nbformat.v4.new_notebook()
    for name in notebooks:
        page.cells += nbformat.read(folder / f"{name}.ipynb", as_version=4).cells
    # It is read offline, and holds no formulas, diagrams or widgets.
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
