"""Privacy: folders, logins and passwords are removed from values, everything else is kept."""

import pytest

from lib.core import privacy


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("sqlite:////home/ann/trials.db", "sqlite:///trials.db"),
        ("sqlite:///trials.db", "sqlite:///trials.db"),
        (r"sqlite+pysqlite:///C:\Users\ann\trials.db?x=/home/ann", "sqlite+pysqlite:///trials.db"),
        ("postgresql://ann:s3cret@host:5432/db", "postgresql://host:5432/db"),
        ("postgresql://ann:s3@cret@host/db", "postgresql://host/db"),
        ("postgresql://ann:s3/c r@e?t@host/db?sslmode=require", "postgresql://host/db"),
        ("https://host/photos@2x.zip", "https://host/photos@2x.zip"),
        ("mysql+pymysql://host/db?user=ann&password=s3cret", "mysql+pymysql://host/db"),
        ("https://ann:s3cret@host/a.zip?token=s3cret", "https://host/a.zip"),
        ("https://drive.google.com/open?id=1ZXEh", "https://drive.google.com/open?id=1ZXEh"),
        ("C:/Users/ann/w.h5", "w.h5"),
    ],
)
def test_public(value, shown):
    assert privacy.public(value) == shown
    assert privacy.public({"a": [value, 1], "b": None}) == {"a": [shown, 1], "b": None}


@pytest.mark.parametrize(
    "value", ["masks/all", "owner/name", "CC BY 4.0, see https://host/a", "imagenet", 0.5, True]
)
def test_public_keeps_other_values(value):
    assert privacy.public(value) == value


def test_separate():
    values = {
        "seed": 1,
        "tune": {"storage": "mysql://a:b@c/d", "trials": 3},
        "model": {"weights": "/w.h5"},
        "clean": {},
    }
    shown, private = privacy.separate(values)
    assert shown == {"seed": 1, "tune": {"trials": 3}, "clean": {}}
    assert private == {"tune": {"storage": "mysql://a:b@c/d"}, "model": {"weights": "/w.h5"}}


FOLDERS = {"/app": ".", "/data": "outputs", "/home/ann lee": "~"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/app/lib/x.py, /data/demo and /app", "./lib/x.py, outputs/demo and ."),
        ("File \x1b[0;32m/app/lib/x.py\x1b[0m:3", "File \x1b[0;32m./lib/x.py\x1b[0m:3"),
        ("--outputs=/data file:///app/x '/data'", "--outputs=outputs file://./x 'outputs'"),
        (r'{"text": "a\n/app/x", "path": "\/data\/x"}', r'{"text": "a\n./x", "path": "outputs\/x"}'),
        ("in /app. And (/data), /data: x", "in .. And (outputs), outputs: x"),
        ("/home/ann lee/x file:///home/ann%20lee/y", "~/x file://~/y"),
    ],
)
def test_without_folders(text, shown):
    assert privacy.without_folders({"a": [text, 1], "b": None}, FOLDERS) == {"a": [shown, 1], "b": None}


@pytest.mark.parametrize(
    "text",
    [
        "/apple /app2 /app_x /app-x /app.txt",
        "/dataset",
        "/srv/app xx/app+yy/data",
        "a/data",
        "~/app",
        "1.5/app",
    ],
)
def test_without_folders_keeps_longer_paths(text):
    assert privacy.without_folders(text, FOLDERS) == text


@pytest.mark.parametrize("quote", ['"', "'", ""])
@pytest.mark.parametrize(
    "content", ["image/png;base64,AB\n/app/data+/data/app==", "image/svg+xml,%3Csvg/app/x"]
)
def test_without_folders_keeps_images_in_html(quote, content):
    content = content if quote else content.replace("\n", "")
    text = f"<img src={quote}data:{content}{quote}> <p>/app/lib</p>"
    assert privacy.without_folders(text, FOLDERS) == text.replace("<p>/app", "<p>.")


def test_without_folders_keeps_encoded_outputs():
    data = {
        "image/png": "AB /app/x",
        "application/pdf": "/data",
        "image/svg+xml": "/app/x",
        "text/html": "/app",
    }
    shown = {**data, "image/svg+xml": "./x", "text/html": "."}
    assert privacy.without_folders({"outputs": [{"data": data}]}, FOLDERS) == {"outputs": [{"data": shown}]}


@pytest.mark.parametrize("folder", [r"C:\Users\ann", r"\\server\ann"])
def test_without_folders_of_windows(folder):
    for text in (folder, folder.replace("\\", "/"), folder.replace("\\", "\\\\"), folder.upper()):
        assert privacy.without_folders(f"in '{text}'", {folder: "~"}) == "in '~'"
        assert privacy.without_folders(f"{text}bel", {folder: "~"}) == f"{text}bel"


def test_without_folders_in_html_escapes_them_too():
    assert privacy.without_folders("<b>/a&amp;b/x</b>", {"/a&b": "."}) == "<b>./x</b>"
