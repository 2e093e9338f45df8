"""The report of a run: text, outputs and images in one file, without the code."""

import base64
import io

import nbformat
import numpy as np
from PIL import Image

from lib import report


def picture():
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), 90, np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def put(folder, name, title, printed):
    cell = nbformat.v4.new_code_cell("secret_code = 1", execution_count=1)
    cell.outputs = [
        nbformat.v4.new_output("stream", text=printed),
        nbformat.v4.new_output("display_data", {"image/png": picture()}),
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# {title}"), cell])
    nbformat.write(book, folder / f"{name}.ipynb")


def test_write_makes_one_page_of_the_notebooks_in_order(tmp_path):
    folder = tmp_path / "my run"
    folder.mkdir()
    put(folder, "01_download", "Bring Fotos für alle", "12 files")
    put(folder, "02_clean", "Clean", "<script>alert(1)</script>")
    path = report.write(folder, ["01_download", "02_clean"])
    text = path.read_text(encoding="utf-8")
    assert path == folder / "report.html" and sorted(file.name for file in folder.iterdir()) == [
        "01_download.ipynb",
        "02_clean.ipynb",
        "report.html",
    ]
    assert (
        text.index("Bring Fotos für alle")
        < text.index("12 files")
        < text.index("Clean</h1>" if "Clean</h1>" in text else ">Clean")
    )
    assert "secret_code" not in text and "In&nbsp;[" not in text
    assert text.count(f"data:image/png;base64,{picture()}") == 2
    assert "<title>my run</title>" in text
    assert "&lt;script&gt;alert(1)" in text and "<script>alert(1)" not in text


def test_write_takes_the_place_of_an_older_page(tmp_path):
    put(tmp_path, "01_download", "New", "x")
    (tmp_path / "report.html").write_text("old")
    assert "New" in report.write(tmp_path, ["01_download"]).read_text(encoding="utf-8")
