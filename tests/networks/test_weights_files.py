"""Files of weights: where they are, and whether a backbone can load them."""

import pytest

from lib.core import schema
from lib.networks import weights_files

HDF5, ZIP, PICKLE = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"\x80\x02"


def require(path, backbone="MobileNetV2"):
    weights_files.require(schema.Model(weights=path and str(path), backbone=backbone))


def test_a_path_starts_in_the_home_or_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.h5").write_bytes(HDF5)
    assert weights_files.find("~/w.h5").samefile("w.h5") and weights_files.find("w.h5").is_file()
    with pytest.raises(FileNotFoundError, match="`model.weights`: the file gone.h5 does not exist. Expected"):
        weights_files.find("gone.h5")
    monkeypatch.setenv("CHRYSALIS_WEIGHTS", "gone.h5")
    with pytest.raises(FileNotFoundError, match=r"the file gone.h5 does not exist \(from WEIGHTS\)"):
        weights_files.find("gone.h5")


@pytest.mark.parametrize(
    ("backbone", "suffix", "content"),
    [
        ("MobileNetV2", ".weights.h5", HDF5),
        ("SimpleCNN", ".H5", HDF5),
        ("MobileNetV2", ".keras", ZIP),
        ("EfficientNetLite0", ".pth", ZIP),
        ("ResNet18", ".pth", PICKLE),
        ("ResNet18", ".h5", HDF5),
    ],
)
def test_files_that_a_backbone_loads_are_accepted(tmp_path, backbone, suffix, content):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    require(path, backbone)
    path.write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(ValueError, match="which begins with b'<!DOCTYP'. Download it again"):
        require(path, backbone)


@pytest.mark.parametrize(
    ("backbone", "name", "suffixes"),
    [
        ("MobileNetV2", "w.pth", ".h5 or .hdf5 or .keras"),
        ("EfficientNetLite0", "w.h5", ".pth or .pt"),
        ("ResNet18", "weights", ".pth or .pt or .h5 or .hdf5"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, backbone, name, suffixes):
    (tmp_path / name).write_bytes(ZIP)
    with pytest.raises(ValueError) as caught:
        require(tmp_path / name, backbone)
    assert str(caught.value) == (
        f"`model.weights`: expected a file for {backbone}, with the suffix {suffixes}. Received: {name}"
    )


def test_weights_without_a_file_are_not_checked():
    require(None)
    require("imagenet")
    require(None, "SimpleCNN")
    with pytest.raises(ValueError, match="SimpleCNN has no ImageNet weights. Set it to null"):
        require("imagenet", "SimpleCNN")
