"""Files from strangers who mean harm: nothing is written outside, no code runs, and the error says why.

Each case goes the way that a user's file goes, into an outputs folder that is watched from outside. The
modules' own tests have more of them: test_archives, test_labels, test_params, test_checkpoints.
"""

import gzip
import io
import json
import pickle
import posix
import stat
import struct
import tarfile
import tracemalloc
import zipfile

import nbformat
import numpy as np
import pandas as pd
import pytest
from shared import encoded, scene
from sklearn.metrics import classification_report

from lib import __main__, report
from lib.clean import manifest, review
from lib.core import params, schema, tables
from lib.download import archives, sources
from lib.evaluate import mistakes
from lib.networks import models
from lib.networks.backend import keras
from lib.photos import class_names, labels, listing

PHOTO = encoded(scene(0))


@pytest.fixture
def outside(tmp_path):
    """A folder with an outputs folder; the files beside the outputs folder must not change."""
    (tmp_path / "secret.txt").write_text("root:x:0:0")
    (tmp_path / "outputs/data").mkdir(parents=True)
    return tmp_path


def contents(folder, but):
    return {
        path: path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if but not in path.parents
    }


def refused(outside, archive, **settings):
    """Fetch an archive, check that nothing came of it anywhere, and return the message."""
    folder = outside / "outputs/data/mine"
    folder.mkdir(exist_ok=True)
    before = contents(outside, folder)
    with pytest.raises(ValueError) as caught:
        sources.fetch(schema.Archive(kind="archive", name="mine", archive=str(archive), **settings), folder)
    assert contents(outside, folder) == before and list(folder.glob("[!.]*")) == []
    assert archive.name in str(caught.value) and str(outside) not in str(caught.value)
    return str(caught.value)


# Archives


def zipped(*members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def in_zip(name, kind):
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (kind | 0o777) << 16
    return entry


def tarred(*members, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for entry, content in members:
            entry = tarfile.TarInfo(entry) if isinstance(entry, str) else entry
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def in_tar(name, kind, target=""):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def encrypted():
    data = bytearray(zipped(("1.jpg", PHOTO)))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def overlapping(count=40):
    """Write a zip whose entries are all the same bytes: 40 MB from 40 kB."""
    data = zipped(("1.jpg", bytes(10**6)))
    start = data.index(b"PK\x01\x02")
    entry = data[start : data.index(b"PK\x05\x06")]
    size = (len(entry) * count).to_bytes(4, "little")
    end = (
        struct.pack("<4s4H", b"PK\x05\x06", 0, 0, count, count) + size + start.to_bytes(4, "little") + b"\0\0"
    )
    return data[:start] + b"".join(entry.replace(b"1.jpg", b"%05d" % number) for number in range(count)) + end


def long_header():
    """Write a tar.gz with a header of 40 MB of names, in 40 kB."""
    entry = tarfile.TarInfo("2.jpg")
    entry.type, entry.size = tarfile.XHDTYPE, 40 * 10**6
    return gzip.compress(tarfile.TarInfo("1.jpg").tobuf() + entry.tobuf() + bytes(entry.size))


def endless():
    """Write a tar.gz of a sparse file whose map has a billion numbers."""
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "2.jpg"}
    first, entry = tarfile.TarInfo("1.jpg").tobuf(), tarfile.TarInfo("2.jpg")
    entry.pax_headers, entry.size = headers, 10**7
    body = b"1000000000\n" + b"1\n" * ((10**7 - 11) // 2)
    return gzip.compress(first + entry.tobuf(tarfile.PAX_FORMAT) + body.ljust(10**7, b"1") + bytes(1024))


OUTSIDE = "expected paths inside the archive"
PLAIN = "expected plain files and folders only. Received: "
ARCHIVES = {
    "zip with ../": (lambda: zipped(("1.jpg", PHOTO), ("../secret.txt", b"x")), f"{OUTSIDE}"),
    "zip with many ../": (lambda: zipped(("a/../../../../../secret.txt", b"x")), OUTSIDE),
    "tar with ../": (lambda: tarred(("1.jpg", PHOTO), ("../../../secret.txt", b"x")), OUTSIDE),
    "zip with an absolute path": (lambda: zipped(("/tmp/evil.jpg", PHOTO)), OUTSIDE),
    "tar with an absolute path": (lambda: tarred(("/tmp/evil.jpg", PHOTO)), OUTSIDE),
    "zip with a drive": (lambda: zipped(("C:\\Windows\\evil.jpg", PHOTO)), OUTSIDE),
    "zip with a link that points out": (
        lambda: zipped(("1.jpg", PHOTO), (in_zip("2.jpg", stat.S_IFLNK), "../../../../secret.txt")),
        f"{PLAIN}a link, '2.jpg'",
    ),
    "tar with a link that points out": (
        lambda: tarred((in_tar("2.jpg", tarfile.SYMTYPE, "../../../../secret.txt"), b"")),
        f"{PLAIN}a link, '2.jpg'",
    ),
    "tar that writes through a link": (
        lambda: tarred((in_tar("up", tarfile.SYMTYPE, "../../../.."), b""), ("up/secret.txt", b"x")),
        f"{PLAIN}a link, 'up'",
    ),
    "tar with a hard link": (
        lambda: tarred((in_tar("2.jpg", tarfile.LNKTYPE, "/etc/passwd"), b"")),
        f"{PLAIN}a link, '2.jpg'",
    ),
    "tar with a device": (
        lambda: tarred((in_tar("zero.jpg", tarfile.CHRTYPE), b"")),
        f"{PLAIN}a device, 'zero.jpg'",
    ),
    "tar with a pipe": (lambda: tarred((in_tar("p.jpg", tarfile.FIFOTYPE), b"")), f"{PLAIN}a device"),
    "zip with a device": (lambda: zipped((in_zip("zero.jpg", stat.S_IFCHR), "")), f"{PLAIN}a device"),
    "zip that shrinks 1000:1": (lambda: zipped(("1.jpg", bytes(11 * 10**6))), "compression of at most 100:1"),
    "zip of overlapping members": (overlapping, "in total"),
    "tar.gz that shrinks 1000:1": (
        lambda: tarred(("1.jpg", bytes(11 * 10**6)), mode="w:gz"),
        "compression of at most 100:1",
    ),
    "tar.gz of empty files": (
        lambda: tarred(*((f"{number}.jpg", b"") for number in range(3000)), mode="w:gz"),
        "compression of at most 100:1",
    ),
    "tar.gz with a header of 40 MB": (long_header, "a header of 40,000,000 bytes"),
    "tar.gz with an endless header": (endless, "a sparse file"),
    "encrypted zip": (encrypted, f"{PLAIN}an encrypted file, '1.jpg'"),
    "zip with a name twice": (
        lambda: zipped(("1.jpg", PHOTO), ("./1.jpg", b"x")),
        "two members named",
    ),
    "a page instead": (lambda: b"<!DOCTYPE html><title>Sign in</title>", "Received: an HTML page"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", ARCHIVES)
def test_archives(outside, monkeypatch, case):
    monkeypatch.setattr(archives, "BIG_ARCHIVE", 10**7)  # of the bombs, which are small here
    make, words = ARCHIVES[case]
    (outside / "photos.zip").write_bytes(make())
    tracemalloc.start()
    message = refused(outside, outside / "photos.zip")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert words in message and peak < 15e6


def entries(count):
    """Write a zip of empty files fast."""
    names = [b"%07d.jpg" % number for number in range(count)]
    local = [struct.pack("<4s5H3I2H", b"PK\3\4", 20, *[0] * 7, 11, 0) + name for name in names]
    size = len(local[0])
    directory = [
        struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, *[0] * 7, 11, *[0] * 5, number * size) + name
        for number, name in enumerate(names)
    ]
    where = len(directory) * len(directory[0]), count * size
    end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, *where)
    end += struct.pack("<4sIQI", b"PK\6\7", 0, sum(where), 1)
    end += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0)
    return b"".join((*local, *directory, end))


def test_a_million_members_with_low_limits(outside, monkeypatch):
    (outside / "photos.zip").write_bytes(entries(1000))
    monkeypatch.setattr(archives, "MANY_MEMBERS", 900)
    message = refused(outside, outside / "photos.zip")
    assert "expected an archive of photos. Received: 1,000 files of 0 bytes on average" in message
    monkeypatch.setattr(archives, "MAX_MEMBERS", 900)
    assert "expected at most 900 members. Received: more" in refused(outside, outside / "photos.zip")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "words"), [(10**6, "1,000,000 files of 0 bytes"), (2_000_001, "2,000,000 members")]
)
def test_a_million_members(outside, count, words):
    (outside / "photos.zip").write_bytes(entries(count))
    assert words in refused(outside, outside / "photos.zip")


# Tables

ROWS = [("1.png", "cat"), ("2.png", "dog"), ("3.png", "cat"), ("4.png", "dog")]
TABLE = "\n".join(["filename,label", *map(",".join, ROWS)])
TABLES = {
    "BOM": ("\ufeff" + TABLE).encode(),
    "semicolons": TABLE.replace(",", ";").encode(),
    "CRLF": TABLE.replace("\n", "\r\n").encode(),
    "Latin-1": TABLE.replace("cat", "Bär").encode("latin-1"),
    "a formula": TABLE.replace("cat", "=HYPERLINK(A1)").encode(),
    "a command": TABLE.replace("cat", "=cmd|' /C calc'!A0").encode(),
}
NAMES = {"Latin-1": "Bär", "a formula": "=HYPERLINK(A1)", "a command": "=cmd|' /C calc'!A0"}


def tables_of():
    tables = {"t": {"file": "labels.csv", "photos": "photos", "label": "label"}}
    return schema.Sample(kind="sample", name="mine", tables=tables)


def build(raw, table):
    for number, (name, _) in enumerate(ROWS):
        raw.photo(f"photos/{name}", number)
    raw.put("labels.csv", table)
    source = tables_of().model_dump()
    sections = {"source": source, "model": {"image_size": 32}, "clean": {"embeddings": False}}
    settings = schema.Params.model_validate({"name": "mine", **sections})
    return manifest.build(raw.folder.parent, settings, content="hostile").table


@pytest.mark.parametrize("case", TABLES)
def test_tables(raw, case):
    table = build(raw, TABLES[case])
    tables.write(table, raw.folder.parent / "manifest.csv")
    for found in (table, manifest.read(raw.folder.parent / "manifest.csv")):
        assert list(found.path) == [f"photos/{name}" for name, _ in ROWS]
        assert list(found.label) == [label.replace("cat", NAMES.get(case, "cat")) for _, label in ROWS]
        assert set(found.status) == {"kept"}


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "../../../secret.txt", "..\\secret.txt", "..\\..\\"]
)
def test_a_table_that_names_a_file_outside(raw, name):
    raw.put("../../secret.txt", PHOTO)
    with pytest.raises(ValueError) as caught:
        build(raw, f"{TABLE}\n{name},cat\n".encode())
    assert f"labels.csv lists {name!r}. Expected: the path of a file inside photos" in str(caught.value)
    assert not (raw.folder.parent / "cache").exists()


# Names

HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m\u202e\n'\"&"


@pytest.fixture
def hostile(raw):
    """The manifest of photos whose class and file names are HTML and control a terminal."""
    for number in range(6):
        raw.photo(f"photos/{number}<b>\x1b[2J.png", number)
    cell = '"' + HOSTILE.replace('"', '""') + '"'
    lines = [f"{number}<b>\x1b[2J.png,{[cell, 'dog'][number % 2]}" for number in range(6)]
    return raw.folder, build(raw, "\n".join(["filename,label", *lines]).encode())


def test_names_in_the_outputs_of_the_notebooks(hostile):
    folder, table = hostile
    listed = labels.find(listing.Folder(folder), tables_of())
    names = class_names.of_source(folder, schema.Sample(kind="sample"), classes=labels.classes(table.label))
    rows = pd.DataFrame({"path": table.path, "split": "test", "label": table.label, "predicted": HOSTILE})
    report = {name: {"n": 3, "recall": 0.5} for name in names}
    shown = [
        tables.printable(listed),
        tables.printable(table[["path", "label", "status", "reason"]]),
        class_names.rename(mistakes.classes(report, 5), names),
        class_names.rename(mistakes.confused(rows, 5, similarities=None), names),
        tables.printable(rows),
    ]
    outputs = [frame.to_string() for frame in shown] + [frame.to_html() for frame in shown]
    titles = {"labels": list(names), "target_names": list(names.values())}
    outputs.append(classification_report(rows.label, rows.predicted, **titles, zero_division=0))
    outputs += manifest.summary(table)["notes"] + listed.attrs["notes"]
    assert any("onerror" in output for output in outputs)
    for output in outputs:
        assert not set(output) & {"\x1b", "\u202e"}
    for frame in shown:
        assert "<img" not in frame.to_html() and "<b>" not in frame.to_html()


def test_names_in_the_report(hostile, tmp_path):
    _, table = hostile
    display = nbformat.v4.new_output(
        "execute_result", {"text/html": tables.printable(table).to_html(), "text/plain": "x"}
    )
    printed = nbformat.v4.new_output("stream", text=f"{HOSTILE}\n")
    cell = nbformat.v4.new_code_cell("x", outputs=[display, printed], execution_count=1)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "02_clean.ipynb")
    report.write(tmp_path, ["02_clean"])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "&lt;img src=x onerror=alert(1)&gt;" in page and "<img src=x" not in page and "\x1b" not in page


def test_names_in_the_review(hostile, monkeypatch):
    folder, table = hostile
    monkeypatch.setattr(review, "interactive", lambda: True)
    names = class_names.of_source(folder, schema.Sample(kind="sample"), classes=labels.classes(table.label))
    images = np.zeros((len(table), 8, 8, 3), np.uint8)
    gallery = review.clusters([[0, 1, 2]], table, images=images, folder=folder.parent, names=names)
    gallery.move(0, HOSTILE)
    texts = [gallery.head.value, *(card.state.value for card in gallery.cards.values())]
    assert any("&lt;img" in text for text in texts)
    assert not any("<img" in text or "<b>\x1b" in text for text in texts)


def test_names_in_an_error_on_the_terminal(monkeypatch, capsys):
    def fail(_):
        raise ValueError(f"first line\nlabels: {HOSTILE}")

    monkeypatch.setattr(__main__, "_call", fail)
    assert __main__.main(["why", "demo"]) == 1
    shown = "\nfirst line\nlabels: <img src=x onerror=alert(1)>\\x1b[31m\\u202e\n"
    assert capsys.readouterr().err.startswith(shown)


# Parameters

YAML = {
    "a call": "seed: !!python/object/apply:os.system ['touch {mark}']",
    "a new object": "seed: !!python/object/new:subprocess.Popen [['touch', '{mark}']]",
    "a module": "seed: !!python/module:antigravity",
    "a name": "seed: !!python/name:os.system",
    "a tuple": "seed: !!python/tuple [1, 2]",
    "another tag": "seed: !include /etc/passwd",
    "an anchor": "clean: &here {{minimum_side: 3}}\nsplit: *here",
    "a billion laughs": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]",
    "lists in lists": "seed: " + "[" * 5_000,
    "mappings in mappings": "seed: " + "{{a: " * 5_000,
    "a number of many digits": "seed: 1" + "0" * 10**5,
    "a date that is none": "seed: 2001-99-99",
}


@pytest.mark.parametrize("case", YAML)
def test_parameters(tmp_path, monkeypatch, case):
    monkeypatch.setattr(params, "FOLDER", tmp_path / "params")
    mark = tmp_path / "was run"
    (tmp_path / "params").mkdir()
    (tmp_path / "params/mine.yaml").write_text(
        f"name: mine\nsource: {{kind: sample}}\n{YAML[case].format(mark=mark)}\n"
    )
    with pytest.raises(ValueError, match=r"params/mine\.yaml") as caught:
        params.load("mine")
    assert not mark.exists() and len(str(caught.value)) < 2000


# Models


class Call:
    """Pickles to a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return posix.system, (self.command,)


def test_weights_that_carry_code(tmp_path):
    mark = tmp_path / "was run"
    (tmp_path / "evil.pth").write_bytes(
        zipped(("archive/data.pkl", pickle.dumps(Call(f"touch '{mark}'"), 2)))
    )
    settings = schema.Model(backbone="EfficientNetLite0", weights=str(tmp_path / "evil.pth"), image_size=64)
    with pytest.raises(ValueError, match=r"evil\.pth .* it contains posix\.system"):
        models.build(settings, classes=2, seed=0)
    assert not mark.exists()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The members of a good .keras file."""
    path = tmp_path_factory.mktemp("model") / "good.keras"
    inputs = keras.Input((2,))
    keras.Model(inputs, keras.layers.Dense(2)(inputs)).save(path)
    models.read(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def named(module, name, config, registered=None):
    return {"module": module, "class_name": name, "config": config, "registered_name": registered}


LAYERS = {
    "os.system": named("os", "system", "touch '{mark}'", "system"),
    "os.system by its arguments": named("os", "system", {"command": "touch '{mark}'"}),
    "subprocess.Popen": named("subprocess", "Popen", {"args": ["touch", "{mark}"]}),
    "eval": named("builtins", "eval", "open('{mark}', 'w')", "eval"),
    "a class of another file": named("mine", "Layer", {}, "mine>Layer"),
    "Keras's own downloader": named(
        "keras.src.utils.file_utils", "get_file", {"fname": "{mark}", "origin": "file:///etc/passwd"}
    ),
    "Keras's own switch": named("keras.config", "enable_unsafe_deserialization", {}),
    "TensorFlow's Lambda": named("tensorflow.python.keras.layers.core", "Lambda", {"function": "eval"}),
    "Lambda": named(
        "keras.layers", "Lambda", {"function": {"class_name": "__lambda__", "config": {"code": "4wEA"}}}
    ),
}


def refused_model(tmp_path, members):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/evil.keras").write_bytes(zipped(*members.items()))
    (tmp_path / "secret.txt").write_text("x")
    before = contents(tmp_path, "nothing")
    with pytest.raises(ValueError) as caught:
        models.read(tmp_path / "in/evil.keras")
    assert contents(tmp_path, "nothing") == before
    assert str(caught.value).startswith("evil.keras: expected a model that 03_train wrote, and nothing else")
    assert len(str(caught.value)) < 600
    return str(caught.value)


@pytest.mark.parametrize("position", ["layer", "activation", "initializer"])
@pytest.mark.parametrize("case", LAYERS)
def test_models_that_carry_code(tmp_path, model, case, position):
    config = json.loads(model["config.json"])
    evil = json.loads(json.dumps(LAYERS[case]).replace("{mark}", str(tmp_path / "was run")))
    layer = config["config"]["layers"][1]
    if position == "layer":
        layer.update(evil)
    else:
        layer["config"]["activation" if position == "activation" else "kernel_initializer"] = evil
    refused_model(tmp_path, model | {"config.json": json.dumps(config)})


@pytest.mark.parametrize(
    "name", ["../../secret.txt", "/tmp/evil.txt", "assets/../../../secret.txt", "assets/code.py"]
)
def test_models_with_other_files_in_them(tmp_path, model, name):
    assert f"Received: a file {name!r} in it" in refused_model(tmp_path, model | {name: b"y"})


@pytest.mark.parametrize("change", ["cut", "no config", "a list", "words"])
def test_damaged_models(tmp_path, model, change):
    config = {"a list": b"[]", "words": b"not JSON"}.get(change, model["config.json"])
    members = model | {"config.json": config}
    if change == "no config":
        members.pop("config.json")
    if change == "cut":
        members["model.weights.h5"] = members["model.weights.h5"][:500]
    refused_model(tmp_path, members)


def test_weights_that_read_another_file(tmp_path, model):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "numbers").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    for number in range(2):
        file = tmp_path / f"{number}.h5"
        file.write_bytes(model["model.weights.h5"])
        with h5py.File(file, "a") as weights:
            dataset = "layers/dense/vars/0"
            del weights[dataset]
            if number:
                weights[dataset] = h5py.ExternalLink(str(tmp_path / "numbers"), "x")
            else:
                weights.create_dataset(dataset, (2, 2), "f4", external=[(str(tmp_path / "numbers"), 0, 16)])
        folder = tmp_path / f"in {number}"
        folder.mkdir()
        assert "External" in refused_model(folder, model | {"model.weights.h5": file.read_bytes()}).title()
