"""Wrong values stop a command before it starts a kernel or a backend, and the message names the parameter."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lib import prerequisites
from lib.core import files, params, steps

HDF5 = b"\x89HDF\r\n\x1a\n"
# Run commands one after another, and print their messages and the imported modules of kernels and backends.
PROGRAM = """
import io, json, os, sys
from lib import __main__
results = []
for words in json.loads(sys.argv[1]):
    for name in ("ARCHIVE", "WEIGHTS"):
        os.environ.pop(f"CHRYSALIS_{name}", None)
    sys.stderr = io.TextIOWrapper(io.BytesIO())
    code = __main__.main(words)
    sys.stderr.flush()
    results.append([code, sys.stderr.buffer.getvalue().decode().strip()])
sys.stderr = sys.__stderr__
started = {"papermill", "jupyter_client", "keras", "tensorflow", "jax", "torch"} & set(sys.modules)
print(json.dumps([results, sorted(started)]))
"""
CASES = {
    "backbone": (["run", "demo", "--set=model.backbone=mobilenetv2"], "the nearest is MobileNetV2"),
    "compared backbone": (["run", "demo", "--set=clean.compare=[ResNet51]"], "the nearest is ResNet50"),
    "backbone of a search": (
        ["tune", "demo", "--set=tune.changes.model.backbone=SimpelCNN"],
        "tune.changes: `model.backbone` is invalid: no backbone has this name; the nearest is SimpleCNN",
    ),
    "key without its section": (["run", "demo", "--set=image_size=96"], "Did you mean `model.image_size`?"),
    "stage": (
        ["run", "demo", "--set=train.stages.haed.epochs=5"],
        "SET: there is no `train.stages.haed`. Did you mean `head`? A new name needs: trainable, epochs, "
        "learning_rate",
    ),
    "weights": (
        ["run", "demo", "--weights=gone.pth"],
        "`model.weights`: the file gone.pth does not exist (from WEIGHTS)",
    ),
    "weights of another kind": (
        ["run", "demo", "--weights=other.h5"],
        "expected a file for EfficientNetLite0, with the suffix .pth or .pt. Received: other.h5 (from "
        "WEIGHTS)",
    ),
    "archive": (["run", "butterfly", "--archive=gone.zip"], "Received: gone.zip, which is neither in"),
    "competition": (
        ["run", "demo", "--set=source.kind=kaggle source.competition=dogs"],
        "Received: no Kaggle key, which competitions require. There are two ways to continue: ",
    ),
    "folder": (
        ["run", "demo", "--set=source.kind=folder source.folder=/gone"],
        "source.folder: expected a path",
    ),
    "masks": (["run", "demo", "--set=gradcam.masks=/gone"], "`gradcam.masks`: expected a folder or a zip"),
    "database": (["tune", "demo"], "demo/tune/study.db, the database of the search, is damaged: file is not"),
    "epochs": (["resume", "demo", "--epochs=x"], "EPOCHS: expected a whole number, such as 10. Received: x"),
}


def test_no_kernel_and_no_backend_starts_for_a_wrong_value(tmp_path):
    (tmp_path / "other.h5").write_bytes(HDF5)
    (tmp_path / "outputs/demo/tune").mkdir(parents=True)
    (tmp_path / "outputs/demo/tune/study.db").write_bytes(b"damaged" * 100)
    hidden = ("KAGGLE", "CHRYSALIS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(params.ROOT)}
    environment["CHRYSALIS_OUTPUTS"] = str(tmp_path / "outputs")
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([words for words, _ in CASES.values()])],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    results, started = json.loads(done.stdout)
    for (code, message), (name, (_, expected)) in zip(results, CASES.items(), strict=True):
        assert code == 1 and expected in message, (name, message)
    assert started == [] and sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def require(tmp_path, monkeypatch):
    """Return a function that prerequisites the demo with some changes, for all steps or those given."""
    monkeypatch.setenv("CHRYSALIS_OUTPUTS", str(tmp_path / "outputs"))
    for variable in ("ARCHIVE", "WEIGHTS", "STORAGE"):
        monkeypatch.delenv(f"CHRYSALIS_{variable}", raising=False)
    for variable in [name for name in os.environ if name.startswith("KAGGLE")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    # For make, all of it is in the environment.
    return lambda change="", sequence=steps.PIPELINE: prerequisites.require(
        params.load("demo", params.parse_assignments(change)), sequence
    )


def test_a_file_that_no_step_reads_is_not_checked(require):
    require("model.weights=gone.pth", (steps.EVALUATE, steps.GRADCAM))
    require("gradcam.masks=/gone", steps.SEARCH)
    with pytest.raises(FileNotFoundError):
        require("gradcam.masks=/gone", (steps.EVALUATE, steps.GRADCAM))


@pytest.mark.parametrize("name", params.names())
def test_a_recipe_is_refused_only_for_its_archive(require, name):
    settings = params.load(name)
    if settings.source.kind == "archive":
        with pytest.raises(FileNotFoundError, match="source.archive: expected a path that exists"):
            prerequisites.require(settings, steps.PIPELINE)
    else:
        prerequisites.require(settings, steps.PIPELINE)


def fetched(tmp_path, name="demo", **record):
    """Write the record of photos that were fetched before."""
    values = dict.fromkeys(
        ("kind", "archive", "archive_sha256", "skipped", "licence", "declared", "fingerprint"), None
    ) | dict.fromkeys(("fetched_at", "files", "bytes", "content_sha256"), 0)
    for folder in ("raw", "masks"):
        (tmp_path / "outputs/data" / name / folder).mkdir(parents=True)
    files.write_json(tmp_path / "outputs/data" / name / "source.json", values | record)


def test_an_archive_may_be_deleted_after_it_was_unpacked(require, tmp_path):
    change = "gradcam.masks=null source.kind=archive source.archive=photos.zip"
    fetched(tmp_path, archive="photos.zip")
    require(change)
    with pytest.raises(FileNotFoundError, match="Received: other.zip"):
        require("gradcam.masks=null source.kind=archive source.archive=other.zip")
    Path("photos.zip").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="photos.zip: expected a zip or tar archive. Received: an HTML page"):
        require(change)
    with zipfile.ZipFile("photos.zip", "w") as archive:
        archive.writestr("a.txt", "")
    require(change)


def test_a_competition_needs_a_key_only_for_its_download(require, tmp_path, monkeypatch):
    change = "gradcam.masks=null source.kind=kaggle source.competition=dogs"
    with pytest.raises(ValueError, match="no Kaggle key, which competitions require.*ARCHIVE=path"):
        require(change)
    require("gradcam.masks=null source.kind=kaggle source.dataset=a/b")
    with monkeypatch.context() as patch:
        patch.setenv("KAGGLE_API_TOKEN", "token")
        require(change)
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle/kaggle.json").write_text("{}")
    require(change)
    (tmp_path / ".kaggle/kaggle.json").unlink()
    fetched(tmp_path)
    require(change)


def test_masks_and_photos_inside_the_source_are_checked_once_it_is_fetched(require, tmp_path):
    for change in ("gradcam.masks=raw/outlines", "gradcam.photo=raw/one.png"):
        require(change)
    fetched(tmp_path)
    for change in ("gradcam.masks=raw/outlines", "gradcam.photo=raw/one.png"):
        with pytest.raises(FileNotFoundError, match=change.split("=")[0]):
            require(change)
    (tmp_path / "outputs/data/demo/raw/outlines").mkdir()
    require("gradcam.masks=raw/outlines")


def test_masks_that_no_source_brings_are_refused_before_the_download(require):
    with pytest.raises(FileNotFoundError, match="`gradcam.masks`.*Received: masks, which does not exist"):
        require("source.kind=kaggle source.dataset=a/b")


def test_class_names_are_read_from_the_folder_of_the_photos(require, tmp_path):
    (tmp_path / "photos").mkdir()
    change = "gradcam.masks=null source.kind=folder source.folder=photos source.class_names=names.json"
    with pytest.raises(FileNotFoundError, match="`source.class_names`: the source has no names.json"):
        require(change)
    (tmp_path / "photos/names.json").write_text("{}")
    require(change)


def test_the_size_suits_the_backbone(require):
    with pytest.raises(ValueError, match="Xception needs at least 71 pixels. Received: 70"):
        require("model.backbone=Xception model.image_size=70")
    require("model.backbone=Xception model.image_size=71")
    with pytest.raises(ValueError, match="`model.weights`: SimpleCNN has no ImageNet weights"):
        require("model.backbone=SimpleCNN")
