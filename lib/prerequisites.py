"""Check the files that the steps of a run read, before its first kernel starts."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lib.core import params, schema, steps
from lib.download import archives, drive, kaggle, local, transfer
from lib.download.record import SourceRecord
from lib.networks import weights_files
from lib.photos import class_names

# Minimum height and width of the photos for backbones that need more than the 32 pixels of the schema.
MINIMUM_SIZES = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}


def require(settings: schema.Params, sequence: Sequence[steps.Step]) -> None:
    """Check what can be checked in a moment: files of the user, Kaggle keys and the size for the backbone.

    Args:
        settings: the parameters of the run.
        sequence: the steps to execute; only parameters that they use are checked.

    Raises:
        FileNotFoundError: if a file or folder does not exist.
        ValueError: if a file is of another kind, a Kaggle competition has no key, or the photos are too
            small for the backbone. The message names the parameter.
    """
    for step in sequence:
        run = steps.Run(settings, step)
        for key in (*step.parameters, *step.user_files):
            if check := CHECKS.get(key):
                check(run)


def _source(run: steps.Run) -> None:
    source = run.settings.source
    match source:
        case schema.Folder():
            local.original(source, run.data)
        case schema.ArchivedSource(archive=str(archive)):
            _archive(run, archive)
        case schema.Kaggle() if not (SourceRecord.load(run.data) or kaggle.attached(source)):
            kaggle.require_key(source)
        case schema.Drive():
            drive.folder_id(source.drive)


def _archive(run: steps.Run, archive: str) -> None:
    record = SourceRecord.load(run.data)
    # An archive can be deleted after it is unpacked.
    unpacked = run.settings.source.kind == "archive" and record and record.archive == Path(archive).name
    if not transfer.is_url(archive) and not (unpacked and not params.find_file(archive).exists()):
        archives.require_archive(local.find(archive, key="archive"))


def _model(run: steps.Run) -> None:
    model = run.settings.model
    weights_files.require(model)
    smallest = MINIMUM_SIZES.get(model.backbone, 0)
    if model.image_size < smallest:
        raise ValueError(
            f"`model.image_size`: {model.backbone} needs at least {smallest} pixels. "
            f"Received: {model.image_size}"
        )


def _class_names(run: steps.Run) -> None:
    source, raw = run.settings.source, run.data / "raw"
    if isinstance(source, schema.Folder):
        raw = local.original(source, run.data)
    # The photos may not have been downloaded yet.
    if raw.is_dir():
        class_names.of_source(raw, source, classes=[])


def _masks(run: steps.Run) -> None:
    _require_path(run, "masks", "a folder or a zip of masks")


def _photo(run: steps.Run) -> None:
    _require_path(run, "photo", "a photo")


def _require_path(run: steps.Run, key: str, expected: str) -> None:
    text = getattr(run.settings.gradcam, key)
    if text is None or run.find(text).exists():
        return
    # A path inside the source may not have been downloaded or, in a sample, drawn yet.
    is_inside = Path(text).parts[:1] == ("raw",) or run.settings.source.kind == "sample"
    if Path(text).is_absolute() or not is_inside or (run.data / "raw").exists():
        raise FileNotFoundError(
            f"`gradcam.{key}`: expected {expected}. Received: {text}, which does not exist"
        )


CHECKS: dict[str, Callable[[steps.Run], None]] = {
    "source.archive": _source,
    "source.class_names": _class_names,
    "model.weights": _model,
    "gradcam.masks": _masks,
    "gradcam.photo": _photo,
}
