"""Parameters: values of files, cells and the command line are merged, and invalid values are refused."""

import json

import pydantic
import pytest

from lib.core import params, privacy, schema

MINIMAL = "name: {name}\nsource: {{kind: sample}}\n"
COMMITTED = sorted(path.stem for path in params.FOLDER.glob("*.yaml"))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder of parameter files, without values from the environment."""
    monkeypatch.delenv("CHRYSALIS_ARCHIVE", raising=False)
    monkeypatch.delenv("CHRYSALIS_WEIGHTS", raising=False)
    monkeypatch.delenv("CHRYSALIS_STORAGE", raising=False)
    (tmp_path / "params").mkdir()
    monkeypatch.setattr(params, "FOLDER", tmp_path / "params")
    return tmp_path / "params"


def put(folder, name="mine", text=""):
    (folder / f"{name}.yaml").write_text(MINIMAL.format(name=name) + text, encoding="utf-8")


def refusal(name="mine", overrides=None, error=ValueError):
    with pytest.raises(error) as caught:
        params.load(name, overrides)
    return str(caught.value)


# The committed files


@pytest.mark.parametrize("name", COMMITTED)
def test_each_committed_file_loads(folder, monkeypatch, name):
    for path in (params.ROOT / "params").glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        named = "mine" if path.stem == "template" else path.stem
        (folder / f"{named}.yaml").write_text(text, encoding="utf-8")
    name_in_file = "mine" if name == "template" else name
    assert params.load(name_in_file).name == name_in_file


def test_butterfly_is_the_recipe_of_its_author(monkeypatch):
    monkeypatch.setattr(params, "FOLDER", params.ROOT / "params")
    loaded = params.load("butterfly")
    assert (loaded.model.backbone, loaded.model.image_size, loaded.model.scaling) == (
        "MobileNetV2",
        224,
        "unit",
    )
    assert [layer.layer for layer in loaded.model.head.values()] == ["average_pooling", "dropout", "dense"]
    assert [(s.epochs, s.learning_rate) for s in loaded.train.stages.values()] == [(15, 3e-4), (20, 1e-4)]


def test_names_leaves_the_template_out(folder):
    for name in ("b", "a", "template"):
        put(folder, name)
    assert params.names() == ["a", "b"]


# Error messages


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("modle: {image_size: 96}", ["unknown key `modle`", "`model`?", "Allowed here: name, run, extends"]),
        ("model: {imagesize: 96}", ["unknown key `model.imagesize`", "`image_size`?"]),
        ("train: {stages: {head: {epoch: 3}}}", ["unknown key `train.stages.head.epoch`", "`epochs`?"]),
        ("evaluate: {predictions: {labels: x}}", ["unknown key `evaluate.predictions.labels`", "`label`?"]),
        ("qqqq: 1", ["unknown key `qqqq`. Allowed here"]),
        ("train: {stages: {head: {epochs: ten}}}", ["`train.stages.head.epochs`", "valid integer", "'ten'"]),
        ("model: {image_size: 96.5}", ["`model.image_size`", "integer", "96.5"]),
        ('model: {image_size: "96"}', ["`model.image_size`", "integer", "'96'"]),
        ("model: {image_size: true}", ["`model.image_size`", "integer", "True"]),
        ("train: {class_weights: 1}", ["`train.class_weights`", "boolean", "Received: 1"]),
        ("train: {batch_size: 0}", ["`train.batch_size`", "greater than or equal to 1", "Received: 0"]),
        ("split: {val: 0.5}", ["`split.val`", "less than 0.5", "Received: 0.5"]),
        ("split: {val: .nan}", ["`split.val`"]),
        ("seed: -1", ["`seed`", "Received: -1"]),
        ("model: {fit: squash}", ["`model.fit`", "'crop', 'stretch' or 'pad'", "'squash'"]),
        ("model: resnet", ["`model`", "'resnet'"]),
        ("train: {stages: {head: {trainable: last ten}}}", ["`train.stages.head.trainable`", "'last ten'"]),
        (
            "train: {stages: {new: {epochs: 3}}}",
            ["`train.stages.new.trainable` is missing", "layers of the backbone"],
        ),
        ("train: {stages: {head: null, fine_tune: null}}", ["`train`", "at least one stage"]),
        ("train: {resume_stages: [tail]}", ["`train`", "Received: tail", "head, fine_tune"]),
        (
            "train: {optimizer: {kind: adam, weight_decay: 0.1}}",
            ["`train.optimizer`", "takes no `weight_decay`: use kind adamw"],
        ),
        ("model: {head: {classes: null}}", ["`model`", "last layer"]),
        ("model: {head: {more: {layer: dropout}}}", ["`model.head.more.rate` is missing", "fraction"]),
        (
            "model: {head: {classes: {layer: dense, rate: 0.5}}}",
            ["`model.head.classes.rate` is not a key of layer dense. layer dense takes: layer, units"],
        ),
        (
            "model: {head: {classes: {layer: dense, unit: 3}}}",
            ["unknown key", "`units`?", "layer dense takes"],
        ),
        ("model: {head: {pool: {layer: pooling}}}", ["`model.head.pool.layer`", "'flatten'", "'pooling'"]),
        (
            "model: {head: {new: {units: 3}}}",
            ["`model.head.new.layer` is missing. Expected: type of layer: "],
        ),
        (
            "model: {head: {classes: {layer: dense, activation: relu}}}",
            ["`model.head.classes`", "takes no `activation`"],
        ),
        (
            "model: {head: {pool: {layer: flatten, units: 3}}}",
            ["`model.head.pool.units` is not a key of layer flatten. layer flatten takes: layer"],
        ),
        ("evaluate: {predictions: {file: ../../x.csv}}", ["`evaluate.predictions.file`", "'../../x.csv'"]),
        ("evaluate: {predictions: {file: manifest.csv}}", ["`evaluate.predictions.file`", "history.csv, "]),
        ("run: ../elsewhere", ["`run`", "'../elsewhere'"]),
    ],
)
def test_wrong_values_are_refused_with_file_key_and_reason(folder, text, words):
    put(folder, text=text)
    message = refusal()
    assert message.startswith("params/mine.yaml: ")
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{}", ["params/mine.yaml: `source.kind` is missing. Expected: source of the photos: "]),
        ("{kind: ftp}", ["`source.kind` is invalid: it should be one of 'kaggle', 'archive'", "'ftp'"]),
        ("{kind: null}", ["`source.kind` is invalid", "'None'"]),
        (
            "{kind: folder}",
            ["params/mine.yaml: `source.folder` is missing. Expected: path of the folder with the photos"],
        ),
        ("{kind: folder, folder: ''}", ["`source.folder`", "at least 1 character"]),
        (
            "{kind: sample, archive: x.zip}",
            ["`source.archive` is not a key of kind sample. kind sample takes: kind, name, licence"],
        ),
        ("{kind: drive, drive: x, dataset: a/b}", ["`source.dataset` is not a key of kind drive. "]),
        ("{kind: sample, photo_per_class: 9}", ["`photos_per_class`?", "Allowed here: kind sample takes"]),
        ("{kind: kaggle}", ["exactly one of: dataset, competition", "none"]),
        ("{kind: kaggle, dataset: a/b, competition: c}", ["exactly one of", "dataset, competition"]),
        ("{kind: kaggle, dataset: no-owner}", ["`source.dataset`", "'no-owner'"]),
        ("{kind: archive, archive: 'https://example.org/a.zip'}", ["needs `sha256`"]),
        ("{kind: archive, archive: a.zip, sha256: ABC}", ["`source.sha256`", "'ABC'"]),
        ("{kind: sample, name: a/b}", ["`source.name`", "'a/b'"]),
        ("{kind: sample, tables: {t: {photos: x}}}", ["`source.tables.t.file` is missing"]),
        ("{kind: sample, tables: {t: {file: x, lable: y}}}", ["`source.tables.t.lable`", "`label`?"]),
        ("none", ["`source`", "'none'"]),
    ],
)
def test_wrong_sources_are_refused(folder, source, words):
    (folder / "mine.yaml").write_text(f"name: mine\nsource: {source}\n", encoding="utf-8")
    message = refusal()
    assert [word for word in words if word not in message] == []


def test_every_problem_is_named_at_once(folder):
    put(folder, text="modle: 1\nseed: x\n")
    lines = refusal().splitlines()
    assert (
        len(lines) == 2 and any("modle" in line for line in lines) and any("`seed`" in line for line in lines)
    )


def test_the_error_for_a_missing_file_lists_the_files(folder):
    put(folder, "birds")
    put(folder, "moths")
    message = refusal("bird", error=FileNotFoundError)
    assert "no params/bird.yaml" in message and "birds, moths" in message and "template.yaml" in message


def test_missing_source_and_missing_name(folder):
    (folder / "mine.yaml").write_text("name: mine\n", encoding="utf-8")
    assert "params/mine.yaml: `source` is missing" in refusal()
    (folder / "mine.yaml").write_text("source: {kind: sample}\n", encoding="utf-8")
    assert "`name` must be the file's name, mine. Received: None" in refusal()


def test_name_must_be_the_files(folder):
    put(folder, "theirs")
    (folder / "theirs.yaml").rename(folder / "mine.yaml")
    assert refusal() == "params/mine.yaml: `name` must be the file's name, mine. Received: 'theirs'"


@pytest.mark.parametrize("name", ["../secret", "a/b", "", "a b", ".hidden", 3.5])
def test_an_invalid_name_is_refused(name):
    assert f"Received: {name!r}" in refusal(name)


@pytest.mark.parametrize("name", schema.RESERVED)
def test_reserved_names(folder, name):
    put(folder, name)
    assert "reserved" in refusal(name)
    put(folder, "mine")
    assert f"`run` must not be {name}" in refusal("mine", {"run": name})


def test_unsafe_and_ambiguous_yaml_is_refused(folder, tmp_path):
    marker = tmp_path / "ran"
    cases = {
        f"seed: !!python/object/apply:os.system ['touch {marker}']": "not valid YAML",
        "seed: 1\nseed: 2": "`seed` occurs twice",
        "train: {batch_size: 1, batch_size: 2}": "`batch_size` occurs twice",
        "clean: &here {minimum_side: 3}": "anchors and aliases",
        "clean: &here {minimum_side: 3}\nsplit: *here": "anchors and aliases",
        "clean: *nowhere": "not valid YAML",
        "seed: [1": "not valid YAML",
        "---\nname: other": "not valid YAML",
        "? [a, b]\n: 1": "not valid YAML",
    }
    for text, words in cases.items():
        put(folder, text=text)
        message = refusal()
        assert message.startswith("params/mine.yaml is not valid YAML") and words in message, text
    assert not marker.exists()


def test_empty_list_and_binary_files(folder):
    for content, words in (
        (b"", "NoneType"),
        (b"# only a comment\n", "NoneType"),
        (b"- a\n", "list"),
        (b"\xff\xfe\x00", "not valid YAML"),
    ):
        (folder / "mine.yaml").write_bytes(content)
        assert words in refusal()


# Merging


def test_extends_merges_key_by_key(folder):
    put(folder, "base", "seed: 7\nmodel: {image_size: 96, fit: pad}\naugment: {rotation: 90}\n")
    (folder / "mine.yaml").write_text(
        "name: mine\nextends: base\nmodel: {image_size: 64}\n", encoding="utf-8"
    )
    loaded = params.load("mine")
    assert (loaded.seed, loaded.model.image_size, loaded.model.fit, loaded.augment.rotation) == (
        7,
        64,
        "pad",
        90,
    )
    assert loaded.name == "mine" and loaded.run_name == "mine"
    assert loaded.source.name == "base"  # the photos are fetched once for both


def test_the_name_of_the_source_is_that_of_the_file_unless_it_is_set(folder):
    put(folder)
    assert params.load("mine").source.name == "mine"
    (folder / "mine.yaml").write_text("name: mine\nsource: {kind: sample, name: shared}\n", encoding="utf-8")
    assert params.load("mine").source.name == "shared"


def test_extends_over_three_files_and_its_errors(folder):
    put(folder, "a", "seed: 1\nclean: {minimum_side: 5}\n")
    (folder / "b.yaml").write_text("name: b\nextends: a\nseed: 2\n", encoding="utf-8")
    (folder / "c.yaml").write_text("name: c\nextends: b\n", encoding="utf-8")
    loaded = params.load("c")
    assert (loaded.seed, loaded.clean.minimum_side, loaded.source.name) == (2, 5, "a")
    (folder / "a.yaml").write_text("name: a\nextends: c\n", encoding="utf-8")
    assert "c -> b -> a -> c" in refusal("c")
    (folder / "a.yaml").write_text("name: a\nextends: gone\n", encoding="utf-8")
    assert "no params/gone.yaml" in refusal("c", error=FileNotFoundError)
    (folder / "a.yaml").write_text("name: a\nextends: ../gone\n", encoding="utf-8")
    assert "`extends` must name a file" in refusal("c")


def test_a_file_that_changes_the_kind_of_source_loses_the_keys_of_the_other_kind(folder):
    source = "{kind: kaggle, dataset: a/b, licence: CC0, class_names: names.json}"
    (folder / "base.yaml").write_text(f"name: base\nsource: {source}\n", encoding="utf-8")
    (folder / "mine.yaml").write_text(
        "name: mine\nextends: base\nsource: {kind: archive, archive: x.zip}\n", encoding="utf-8"
    )
    source = params.load("mine").source
    assert (source.kind, source.archive, source.licence) == ("archive", "x.zip", "CC0")
    assert source.class_names == "names.json"
    (folder / "mine.yaml").write_text(
        "name: mine\nextends: base\nsource: {kind: sample, dataset: c/d}\n", encoding="utf-8"
    )
    assert "params/mine.yaml: `source.dataset` is not a key of kind sample" in refusal()


def test_assignments_change_the_kind_of_a_source_and_of_a_layer(folder, monkeypatch):
    put(folder)
    change = params.parse_assignments("source.photos_per_class=24 model.head.dropout.layer=flatten")
    assert params.load("mine", change).source.photos_per_class == 24
    assert params.load("mine", change).model.head["dropout"].layer == "flatten"
    change = params.parse_assignments("source.dataset=a/b source.kind=kaggle")
    assert params.load("mine", change).source.dataset == "a/b"
    monkeypatch.setenv("CHRYSALIS_ARCHIVE", "x.zip")
    assert params.load("mine", change).source.archive == "x.zip"
    assert refusal().startswith("the command line: `source.archive` is not a key of kind sample")


def test_an_error_names_the_file_that_holds_it(folder):
    put(folder, "base", "seed: x\n")
    (folder / "mine.yaml").write_text(
        "name: mine\nextends: base\nclean: {minimum_sid: 3}\n", encoding="utf-8"
    )
    message = refusal()
    assert "params/base.yaml: `seed`" in message
    assert "params/mine.yaml: unknown key `clean.minimum_sid`" in message


def test_an_error_names_the_overrides(folder):
    put(folder)
    with pytest.raises(ValueError, match=r"^SET: unknown key `modle`"):
        params.load("mine", {"modle": {}}, origin="SET")


def test_null_removes_a_layer_a_stage_and_a_table(folder):
    (folder / "base.yaml").write_text(
        "name: base\n"
        "source: {kind: sample, tables: {one: {file: a.csv}, two: {file: b.csv}}}\n"
        "model: {head: {pool: {layer: flatten}, dropout: {layer: dropout, rate: 0.1}, "
        "classes: {layer: dense}}}\n"
        "train: {stages: {head: {trainable: none, epochs: 1, learning_rate: 1}, "
        "all: {trainable: all, epochs: 1, learning_rate: 1}}}\n",
        encoding="utf-8",
    )
    text = (
        "name: mine\nextends: base\nsource: {tables: {one: null}}\nmodel: {head: {dropout: null}}\n"
        "train: {stages: {head: null}}\n"
    )
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    loaded = params.load("mine")
    assert list(loaded.model.head) == ["pool", "classes"]
    assert list(loaded.train.stages) == ["all"]
    assert list(loaded.source.tables) == ["two"]


def test_null_on_the_command_line_removes_a_default_stage(folder):
    put(folder)
    loaded = params.load("mine", params.parse_assignments("train.stages.head=null model.head.dropout=null"))
    assert list(loaded.train.stages) == ["fine_tune"] and list(loaded.model.head) == ["pool", "classes"]


def test_a_file_that_names_stages_replaces_the_default_ones(folder):
    put(folder, text="train: {stages: {only: {trainable: all, epochs: 1, learning_rate: 1e-3}}}\n")
    assert list(params.load("mine").train.stages) == ["only"]


def test_one_key_of_a_default_stage_or_layer_can_change(folder):
    put(folder)
    loaded = params.load(
        "mine", params.parse_assignments("train.stages.fine_tune.epochs=2 model.head.dropout.rate=0.5")
    )
    assert list(loaded.train.stages) == ["head", "fine_tune"] and loaded.train.stages["fine_tune"].epochs == 2
    assert loaded.train.stages["fine_tune"].schedule == schema.STAGES["fine_tune"].schedule
    assert loaded.model.head["dropout"].rate == 0.5


SAME = {
    "train.stages.head.epochs=5": "train: {stages: {head: {epochs: 5}}}",
    "train.stages.fine_tune=null": "train: {stages: {fine_tune: null}}",
    "train.stages.fine_tune.schedule=constant": "train: {stages: {fine_tune: {schedule: constant}}}",
    "train.stages.warm.trainable=all train.stages.warm.epochs=1 train.stages.warm.learning_rate=0.1 "
    "train.stages.head.epochs=5": "train: {stages: {warm: {trainable: all, epochs: 1, learning_rate: 0.1}, "
    "head: {epochs: 5}}}",
    "model.head.dropout.rate=0.5": "model: {head: {dropout: {rate: 0.5}}}",
    "model.head.pool.layer=max_pooling": "model: {head: {pool: {layer: max_pooling}}}",
    "model.head.classes.l2=0.1": "model: {head: {classes: {layer: dense, l2: 0.1}}}",
    "model.head.dropout=null": "model: {head: {dropout: null}}",
}


@pytest.mark.parametrize("assignments", SAME)
def test_a_file_changes_the_default_stages_and_layers_as_set_does(folder, assignments):
    put(folder)
    expected = params.load("mine", params.parse_assignments(assignments))
    assert expected != params.load("mine")
    put(folder, text=SAME[assignments])
    changed = params.load("mine")
    assert changed == expected
    assert list(changed.train.stages) == list(expected.train.stages)
    assert list(changed.model.head) == list(expected.model.head)
    (folder / "child.yaml").write_text("name: child\nextends: mine\n", encoding="utf-8")
    assert params.load("child").train == expected.train


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("train: {stages: {head: {trainable: all, epochs: 1, learning_rate: 1}}}", ["head"]),
        ("train: {stages: {fine_tune: null, only: {trainable: all, epochs: 1, learning_rate: 1}}}", ["only"]),
        ("model: {head: {pool: {layer: average_pooling}, classes: {layer: dense}}}", ["pool", "classes"]),
    ],
)
def test_a_complete_definition_in_a_file_replaces_the_default(folder, text, names):
    put(folder, text=text)
    loaded = params.load("mine")
    assert list(loaded.train.stages if text.startswith("train") else loaded.model.head) == names


# Suggestions


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        ("image_size=96", "unknown key `image_size`. Did you mean `model.image_size`? Allowed here: name"),
        ("imagesize=96", "Did you mean `model.image_size`?"),
        ("weights=null", "Did you mean `model.weights`?"),
        ("model.batch_size=16", "unknown key `model.batch_size`. Did you mean `train.batch_size`?"),
        (
            "learning_rate=1",
            "Did you mean `train.stages.head.learning_rate` or `train.stages.fine_tune.learning_rate`?",
        ),
        ("head.epochs=5", "unknown key `head`. Did you mean `train.stages.head.epochs`?"),
        ("train.head.epochs=5", "unknown key `train.head`. Did you mean `train.stages.head.epochs`?"),
        ("rate=0.5", "Did you mean `model.head.dropout.rate`?"),
        ("photos_per_class=9", "Did you mean `source.photos_per_class`?"),
        (
            "train.stages.haed.epochs=5",
            "there is no `train.stages.haed`. Did you mean `head`? A new name needs: trainable, epochs, "
            "learning_rate",
        ),
        ("model.head.dropuot.rate=0.5", "there is no `model.head.dropuot`. Did you mean `dropout`?"),
        ("train.stages.fine_tun=null", "there is no `train.stages.fine_tun`. Did you mean `fine_tune`?"),
        ("tune.space.x=null", "there is no `tune.space.x`. Names: none."),
        (
            "model.backbone=Mobilenet_V2",
            "`model.backbone` is invalid: no backbone has this name; the nearest is MobileNetV2. "
            "Received: 'Mobilenet_V2'",
        ),
        (
            "clean.compare=[ResNet51]",
            "`clean.compare.0` is invalid: no backbone has this name",
        ),
    ],
)
def test_a_misspelt_or_incomplete_key_is_answered_with_the_nearest(folder, assignments, message):
    put(folder)
    with pytest.raises(ValueError) as caught:
        params.load("mine", params.parse_assignments(assignments), origin="SET")
    assert str(caught.value).startswith("SET: ") and message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_misspelt_stage_in_a_file_is_answered_with_the_nearest(folder):
    put(folder, text="train: {stages: {haed: {epochs: 5}}}")
    assert refusal().startswith("params/mine.yaml: there is no `train.stages.haed`. Did you mean `head`?")
    put(folder)
    with pytest.raises(ValueError, match="tune.changes: there is no `train.stages.haed`"):
        params.changed(params.load("mine"), {"train.stages.haed": None}, origin="tune.changes")


def test_merge_leaves_its_arguments_alone():
    base, over = {"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2], "e": None}
    assert params.merge(base, over) == {"a": {"b": 3, "c": 2}, "d": [2], "e": None}
    assert base == {"a": {"b": 1, "c": 2}, "d": [1]} and over == {"a": {"b": 3}, "d": [2], "e": None}
    assert params.merge({"a": 1}, {"a": {"b": 2}}) == {"a": {"b": 2}}
    assert params.merge({"a": {"b": 2}}, {"a": None}) == {"a": None}


# Numbers, cells, SET and the environment


def test_1e_4_is_a_number_in_yaml_in_a_cell_and_in_set(folder):
    put(
        folder,
        text="train: {stages: {head: {trainable: all, epochs: 1, learning_rate: 1e-4}}, "
        "optimizer: {weight_decay: 2E-5}}\n",
    )
    loaded = params.load("mine")
    assert (loaded.train.stages["head"].learning_rate, loaded.train.optimizer.weight_decay) == (1e-4, 2e-5)
    cell = {
        "name": "mine",
        "train": {"stages": {"head": {"learning_rate": "3e-4"}}},
    }  # papermill's YAML gives a string
    assert params.resolve(cell).train.stages["head"].learning_rate == 3e-4
    changes = params.parse_assignments("train.stages.head.learning_rate=5e-4")
    assert params.load("mine", changes).train.stages["head"].learning_rate == 5e-4


def test_the_name_of_a_run_may_look_like_a_number(folder):
    put(folder)
    assert params.load("mine", {"run": "7e12"}).run_name == "7e12"


def test_a_cell_overrides_the_file_and_ignores_none_and_other_variables(folder):
    put(folder, text="seed: 5\nmodel: {image_size: 96, fit: pad}\n")
    cell = dict.fromkeys(schema.Params.model_fields) | {
        "name": "mine",
        "model": {"image_size": 64},
        "pd": object(),
        "modle": 1,
    }
    loaded = params.resolve(cell)
    assert (loaded.seed, loaded.model.image_size, loaded.model.fit) == (5, 64, "pad")
    with pytest.raises(ValueError, match=r"^the notebook's parameters cell: unknown key `model.size`"):
        params.resolve(cell | {"model": {"size": 64}})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        (None, {}),
        ("  ", {}),
        ("a=1 b.c=x", {"a": 1, "b": {"c": "x"}}),
        ("a.b=1 a.c=2", {"a": {"b": 1, "c": 2}}),
        ("a=1 a=2", {"a": 2}),
        ("a='last 30 layers'", {"a": "last 30 layers"}),
        ('a.b="last 40 %" c=true', {"a": {"b": "last 40 %"}, "c": True}),
        ("a='{b: 1, c: [2, 3]}'", {"a": {"b": 1, "c": [2, 3]}}),
        ("a=null b=", {"a": None, "b": None}),
        ("a=x=y", {"a": "x=y"}),
        ("a=1e-4 b=-2.5e+3", {"a": 1e-4, "b": -2500.0}),
        ("a='C: is a colon: too'", {"a": "C: is a colon: too"}),
        ("a-b.c_d=1", {"a-b": {"c_d": 1}}),
    ],
)
def test_parse_assignments(text, expected):
    assert params.parse_assignments(text) == expected


@pytest.mark.parametrize(
    "text", ["train.batch_size", "=3", "a..b=1", ".a=1", "a.=1", "a b=1", "a,b=1", "a='open", 'a="']
)
def test_parse_assignments_refuses_what_is_not_key_value(text):
    with pytest.raises(
        ValueError, match=r"SET takes key=value pairs such as train.batch_size=16. Received: "
    ):
        params.parse_assignments(text)


def test_parse_assignments_runs_nothing(tmp_path):
    text = f"a='!!python/object/apply:os.system [touch {tmp_path}/ran]'"
    assert params.parse_assignments(text) == {"a": f"!!python/object/apply:os.system [touch {tmp_path}/ran]"}
    assert not (tmp_path / "ran").exists()


def test_paths_from_the_environment(folder, monkeypatch):
    (folder / "mine.yaml").write_text(
        "name: mine\nsource: {kind: archive, archive: theirs.zip}\n", encoding="utf-8"
    )
    monkeypatch.setenv("CHRYSALIS_ARCHIVE", "/data/my photos.zip")
    monkeypatch.setenv("CHRYSALIS_WEIGHTS", "~/weights.h5")
    loaded = params.load("mine")
    assert (loaded.source.archive, loaded.model.weights) == ("/data/my photos.zip", "~/weights.h5")
    monkeypatch.setenv("CHRYSALIS_STORAGE", "postgresql://ann:secret@host/db")
    assert params.load("mine").tune.storage == "postgresql://ann:secret@host/db"
    cell = params.load("mine", {"source": {"archive": "cell.zip"}, "model": {"weights": None}})
    assert (cell.source.archive, cell.model.weights) == ("cell.zip", None)
    monkeypatch.setenv("CHRYSALIS_ARCHIVE", "")
    assert params.load("mine").source.archive == "theirs.zip"


# Loaded parameters


def test_parameters_are_frozen(folder):
    put(folder)
    loaded = params.load("mine")
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        loaded.seed = 3
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        loaded.train.batch_size = 3


def test_loading_twice_gives_equal_and_unshared_values(folder):
    put(folder)
    one, two = params.load("mine"), params.load("mine")
    assert one == two
    one.train.stages.clear()
    assert params.load("mine") == two


def test_public_reduces_paths_to_the_file_name(folder):
    put(
        folder,
        text="model: {weights: ~/secret/w.h5}\n"
        "gradcam: {masks: ../x/masks.zip, photo: 'C:\\Users\\ann\\p.jpg'}\n",
    )
    (folder / "mine.yaml").write_text(
        (folder / "mine.yaml")
        .read_text()
        .replace("{kind: sample}", "{kind: folder, folder: /home/ann/photos}"),
        encoding="utf-8",
    )
    shown = params.public(params.load("mine"))
    assert (shown["source"]["folder"], shown["model"]["weights"], shown["gradcam"]["masks"]) == (
        "photos",
        "w.h5",
        "masks.zip",
    )
    text = json.dumps(shown)
    assert not [word for word in ("/home", "ann", "~", "secret", "..", "Users") if word in text]


def test_public_keeps_urls_data_sets_and_relative_paths(folder):
    put(folder, text="gradcam: {masks: masks/all}\n")
    (folder / "mine.yaml").write_text(
        (folder / "mine.yaml").read_text().replace("{kind: sample}", "{kind: kaggle, dataset: owner/name}"),
        encoding="utf-8",
    )
    shown = params.public(params.load("mine"))
    assert (shown["source"]["dataset"], shown["gradcam"]["masks"]) == ("owner/name", "masks/all")
    assert json.loads(json.dumps(shown)) == shown


def test_public_and_pick_remove_the_login_to_a_database(folder):
    put(folder)
    url = "postgresql://ann:s3cret@host:5432/db"
    loaded = params.load("mine", {"tune": {"storage": url}})
    assert loaded.tune.storage == url and params.pick(loaded, "tune.storage") == "postgresql://host:5432/db"
    assert params.public(loaded)["tune"]["storage"] == "postgresql://host:5432/db"


def test_private_values_reach_the_next_load(folder, monkeypatch):
    put(folder)
    monkeypatch.setenv(params.PRIVATE, "")
    text = "tune.storage=postgresql://ann:s3cret@host/db tune.trials=3 model.weights=/home/ann/w.h5 clean={}"
    overrides = params.parse_assignments(text)
    shown, private = privacy.separate(overrides)
    assert shown == {"tune": {"trials": 3}, "clean": {}}
    params.set_private(private)
    assert params.resolve({"name": "mine", **shown}).tune.storage == "postgresql://ann:s3cret@host/db"
    params.set_private({})
    assert params.resolve({"name": "mine", **shown}).tune.storage is None
    assert privacy.separate(shown) == (shown, {})


def test_flat_is_the_inverse_of_nested():
    values = {"a": {"b": 1, "c": {"d": None}}, "e": [1, {"f": 2}], "g": {}}
    assert params.flat(values) == {"a.b": 1, "a.c.d": None, "e": [1, {"f": 2}], "g": {}}
    assert params.nested(params.flat(values)) == values


def test_the_error_for_a_missing_file_suggests_the_nearest_name(folder):
    put(folder)
    with pytest.raises(FileNotFoundError, match=r"there is no params/mien.yaml. Did you mean mine\?"):
        params.load("mien")


# Changes


def test_changed_merges_values_and_validates_the_result(folder):
    put(folder, text="train: {optimizer: {kind: adam}}\nmodel: {image_size: 96}\n")
    loaded = params.load("mine")
    other = params.changed(
        loaded,
        {
            "model.simple_cnn.filters": 16,
            "model.head.dropout.rate": 0.5,
            "train": {"batch_size": 8, "stages": {"fine_tune": None}},
        },
    )
    assert (other.model.simple_cnn.filters, other.model.image_size, other.train.batch_size) == (16, 96, 8)
    assert other.model.head["dropout"].rate == 0.5 and list(other.train.stages) == ["head"]
    # Its weight_decay is still the default.
    assert other.train.optimizer.kind == "adam"
    assert loaded == params.load("mine") and params.changed(loaded, {}) == loaded


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model.imagesize": 96}, "tune.space: unknown key `model.imagesize`. Did you mean `image_size`?"),
        ({"model.image_size": 8}, "tune.space: `model.image_size` is invalid"),
        ({"model.image_size": 96.0}, "Received: 96.0"),
        ({"model": {"image_size": 8, "fit": "x"}}, "Received: 'x'"),
        (
            {"train.stages": {"head": None, "fine_tune": None}},
            "tune.space: `train` is invalid: `stages` must contain",
        ),
    ],
)
def test_changed_refuses_as_load_does(folder, values, words):
    put(folder)
    with pytest.raises(ValueError) as caught:
        params.changed(params.load("mine"), values, origin="tune.space")
    assert words in str(caught.value)


def test_changed_works_on_parameters_without_a_file():
    plain = schema.Params.model_validate({"name": "x", "source": {"kind": "sample"}})
    other = params.changed(plain, {"train.stages.head.epochs": 3})
    assert other.train.stages["head"] == plain.train.stages["head"].model_copy(update={"epochs": 3})
    assert other.train.stages["fine_tune"] == plain.train.stages["fine_tune"]


def test_nested():
    assert params.nested({"a.b": 1, "a.c.d": {"e": 2}, "f": 3}) == {
        "a": {"b": 1, "c": {"d": {"e": 2}}},
        "f": 3,
    }
    assert params.nested({}) == {}


def test_pick_and_table(folder):
    put(folder, text="model: {image_size: 96}\ntrain: {early_stopping: null}\n")
    loaded = params.load("mine")
    assert params.pick(loaded, "model.image_size") == 96
    split = {"val": 0.15, "test": 0.15, "group": None, "on_leak": "drop"}
    assert params.pick(loaded, "split") == split
    for key in ("model.size", "source.archive", "seed.x"):
        with pytest.raises((KeyError, TypeError)):
            params.pick(loaded, key)
    assert params.public(loaded)["train"] == params.pick(loaded, "train")
    table = params.table(loaded, "seed", "split", "model.image_size", "train", "model.head")
    assert table.index.name == "parameter" and list(table.columns) == ["value", "meaning"]
    assert (
        table.value["split.val"] == 0.15
        and table.value["model.image_size"] == 96
        and table.value["seed"] == 42
    )
    assert "in pixels" in table.meaning["model.image_size"]
    assert table.value["train.stages.head.epochs"] == 12 and table.value["model.head.dropout.rate"] == 0.25
    assert table.value["train.optimizer.kind"] == "adamw"
    assert not [key for key in table.index if key.startswith("train.early_stopping")]
    assert table.index.is_unique and table.value.notna().all()


def test_every_section_can_be_shown(folder):
    put(folder)
    loaded = params.load("mine")
    for section in ("source", "clean", "split", "model", "augment", "train", "evaluate", "gradcam"):
        assert len(params.table(loaded, section)) > 0, section


def test_find_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.zip").write_bytes(b"")
    assert params.find_file("~/x.zip") == tmp_path / "x.zip"
    assert params.find_file("here.zip").resolve() == tmp_path / "here.zip"
    assert params.find_file("README.md") == params.ROOT / "README.md"
    assert params.find_file("/a/b") == params.Path("/a/b")


def test_labels_that_look_like_numbers_are_text(monkeypatch):
    monkeypatch.setattr(params, "FOLDER", params.ROOT / "params")
    loaded = params.load("demo", params.parse_assignments("source.classes=[0,12,n01]"))
    assert loaded.source.classes == ["0", "12", "n01"]
    with pytest.raises(ValueError, match="source.classes.0"):
        params.load("demo", {"source": {"classes": [1.5]}})
