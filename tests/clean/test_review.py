"""The review: its photos, the pages of clusters, and no widget without a front end."""

import nbformat
import pytest
from nbclient import NotebookClient
from review_builders import clusters, decided, images, issues, label_issues, manifest, type_in

from lib.clean import decisions, review


def test_what_a_run_has_applied_can_be_undone(tmp_path, watched):
    type_in(label_issues(tmp_path), "er")
    table = manifest()
    # As in the manifest of a later run.
    table.loc[1, "label"] = "cat"
    table.loc[0, "status"] = "excluded"
    ranked = issues(table).query("row > 1")
    gallery = review.label_issues(ranked, table, images=images(table), folder=tmp_path, names={})
    last = {gallery.items[number].path: number for number in (10, 11)}
    assert set(last) == {"cat/0.jpg", "dog/1.jpg"} and gallery.at == 0
    gallery.move(last["dog/1.jpg"])
    assert "relabelled to cat" in gallery.cards[last["dog/1.jpg"]].state.value
    gallery.cards[last["dog/1.jpg"]].buttons["keep"].click()
    gallery.cards[last["cat/0.jpg"]].buttons["undo"].click()
    assert decided(tmp_path) == {"dog/1.jpg": ("keep", "dog")}


# Clusters


def test_a_cluster_has_a_page_of_its_own(tmp_path, watched):
    gallery = clusters(tmp_path)
    assert [item.path for item in gallery.items] == [f"cat/{n}.jpg" for n in (0, 2, 4)] + [
        "dog/1.jpg",
        "dog/3.jpg",
    ]
    assert list(gallery.cards) == [0, 1, 2]
    gallery.cards[1].buttons["only"].click()
    assert decided(tmp_path) == {
        "cat/0.jpg": ("exclude", ""),
        "cat/4.jpg": ("exclude", ""),
        "cat/2.jpg": ("keep", "cat"),
    }
    assert decisions.read(tmp_path, "exclusions.csv").reason[0] == "near-duplicate of cat/2.jpg"


def test_a_large_cluster_goes_over_several_pages_and_is_still_one(tmp_path, monkeypatch, watched):
    monkeypatch.setattr(review, "MOST_PER_PAGE", 2)
    gallery = clusters(tmp_path)
    assert list(gallery.cards) == [0, 1]
    type_in(gallery, "o")
    assert [path for path, (kind, _) in decided(tmp_path).items() if kind == "exclude"] == [
        "cat/2.jpg",
        "cat/4.jpg",
    ]


# Headless


def test_nothing_is_shown_without_a_kernel(tmp_path):
    assert not review.interactive()
    assert label_issues(tmp_path) is None and clusters(tmp_path) is None and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("asks", [False, True])
def test_only_a_front_end_that_can_ask_somebody_shows_it(asks):
    cell = nbformat.v4.new_code_cell("from lib.clean import review\nreview.interactive() or None")
    client = NotebookClient(nbformat.v4.new_notebook(cells=[cell]), kernel_name="python3", timeout=120)
    with client.setup_kernel():
        client.kc.allow_stdin = asks
        outputs = client.execute_cell(cell, 0).outputs
    assert [output.data["text/plain"] for output in outputs] == (["True"] if asks else [])
