"""The gallery: clicks and keys write decisions, and a new kernel shows them."""

import cv2
import numpy as np
import pytest
from review_builders import clusters, decided, images, issues, label_issues, manifest, type_in
from shared import scene

from lib.clean import decisions, review
from lib.clean.gallery import Card, Item

# Photos


@pytest.mark.parametrize(("width", "height", "shape"), [(40, 40, (200, 200)), (400, 100, (50, 200))])
def test_a_card_shows_the_photo_with_a_longer_side_of_200_pixels(width, height, shape):
    photo = scene(3, width, height)
    card = Card(Item("cat/1.jpg", "", "cat", "", "", photo, -1), labels=[], act=print)
    pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(card.children[0].value, np.uint8), 1), cv2.COLOR_BGR2RGB)
    assert pixels.shape[:2] == shape
    expected = cv2.resize(photo, shape[::-1], interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(pixels - expected).mean() < 12 < np.abs(pixels[..., ::-1] - expected).mean()


def test_the_cards_are_those_of_the_ranked_photos(tmp_path, watched):
    table = manifest()
    ranked = issues(table).iloc[[7, 2, 5]]
    gallery = review.label_issues(ranked, table, images=images(table), folder=tmp_path, names={})
    assert [item.path for item in gallery.items] == ["dog/7.jpg", "cat/2.jpg", "dog/5.jpg"]
    for item, row in zip(gallery.items, [7, 2, 5], strict=True):
        np.testing.assert_array_equal(item.picture, images(table)[row])
        assert item.note == f"score {ranked.score[row]:.3f}" and item.suggested == ranked.suggested[row]


# Clicks


def test_each_button_writes_at_once(tmp_path, watched):
    gallery = label_issues(tmp_path)
    gallery.cards[0].buttons["exclude"].click()
    assert decided(tmp_path) == {"cat/0.jpg": ("exclude", "")}
    gallery.cards[1].buttons["relabel"].click()
    gallery.cards[2].buttons["keep"].click()
    assert decided(tmp_path) == {
        "cat/0.jpg": ("exclude", ""),
        "dog/1.jpg": ("relabel", "cat"),
        "cat/2.jpg": ("keep", "cat"),
    }
    gallery.cards[0].buttons["keep"].click()
    gallery.cards[1].buttons["undo"].click()
    assert decided(tmp_path) == {"cat/0.jpg": ("keep", "cat"), "cat/2.jpg": ("keep", "cat")}
    row = decisions.read(tmp_path, decisions.RELABELS).iloc[0]
    assert row.sha1 == f"{2:040x}" and row["from"] == "cat"


def test_the_label_can_be_chosen(tmp_path, watched):
    table = manifest()
    table.loc[11, "label"] = "elk"
    gallery = label_issues(tmp_path, table)
    assert gallery.cards[0].label.value == "dog"
    gallery.cards[0].label.value = "elk"
    gallery.cards[0].buttons["relabel"].click()
    assert decided(tmp_path) == {"cat/0.jpg": ("relabel", "elk")}


def test_a_clicked_photo_gets_the_cursor(tmp_path, watched):
    gallery = label_issues(tmp_path)
    gallery.cards[5].buttons["exclude"].click()
    borders = {number: card.layout.border_top for number, card in gallery.cards.items()}
    assert gallery.at == 5 and gallery.slider.value == 6
    assert [number for number, border in borders.items() if "transparent" not in border] == [5]


# Keys


def test_keys_act_and_move_on_through_the_pages(tmp_path, watched):
    gallery = label_issues(tmp_path)
    type_in(gallery, "kER")
    assert list(decided(tmp_path).values()) == [("keep", "cat"), ("relabel", "dog"), ("exclude", "")]
    type_in(gallery, "nx?nnnn")
    assert gallery.at == 8 and list(gallery.cards) == [8, 9, 10, 11]
    type_in(gallery, "bb")
    assert gallery.at == 6 and len(gallery.page.children) == 8
    type_in(gallery, "nnnnnnnnn")
    assert gallery.at == 11


def test_letters_that_arrive_together_or_are_deleted(tmp_path, watched):
    gallery = label_issues(tmp_path)
    gallery.letters.value = "ke"
    gallery.letters.value = "k"
    gallery.letters.value = ""
    assert gallery.at == 2 and len(decided(tmp_path)) == 2
    gallery.letters.value = "k"
    assert gallery.at == 3
    # The text is replaced.
    gallery.letters.value = "ee"
    assert gallery.at == 5 and [kind for kind, _ in decided(tmp_path).values()].count("exclude") == 3


def test_the_slider_moves_the_cursor(tmp_path, watched):
    gallery = label_issues(tmp_path)
    gallery.slider.value = 10
    assert gallery.at == 9 and 9 in gallery.cards
    type_in(gallery, "e")
    assert decided(tmp_path) == {"dog/9.jpg": ("exclude", "")} and gallery.slider.value == 11


# Decisions in the files


def test_a_new_kernel_goes_on_where_the_last_one_stopped(tmp_path, watched):
    type_in(label_issues(tmp_path), "ekr")
    again = label_issues(tmp_path)
    assert again.at == 3 and "3 of 12" in again.head.value
    states = [card.state.value for card in again.cards.values()]
    assert "excluded" in states[0] and "kept" in states[1] and "relabelled to dog" in states[2]
    assert not any(word in states[3] for word in ("excluded", "kept", "relabelled"))


def test_a_photo_that_was_replaced_is_to_be_looked_at_again(tmp_path, watched):
    gallery = label_issues(tmp_path)
    type_in(gallery, "k")
    first = gallery.items[0].path
    replaced = manifest()
    replaced.loc[replaced.path.eq(first), "sha1"] = "e" * 40
    again = label_issues(tmp_path, replaced)
    assert again.at == [item.path for item in again.items].index(first)
    assert first not in again.decided


def test_a_damaged_file_is_reported_and_not_overwritten(tmp_path, watched):
    gallery = label_issues(tmp_path)
    broken = "file;why\ncat/0.jpg;blurred\n"
    (tmp_path / "exclusions.csv").write_text(broken)
    gallery.cards[3].buttons["keep"].click()
    assert "exclusions.csv has no column" in gallery.head.value and "path" in gallery.head.value
    assert (tmp_path / "exclusions.csv").read_text() == broken and not (tmp_path / "relabels.csv").exists()


def test_names_of_strangers_are_escaped(tmp_path, watched):
    table = manifest()
    table.loc[0, ["path", "label"]] = "x/<img src=x onerror=alert(1)>.jpg", "<script>"
    text = label_issues(tmp_path, table).cards[0].state.value
    assert "<img" not in text and "<script>" not in text and "&lt;script&gt;" in text


def test_names_for_labels(tmp_path, watched):
    gallery = label_issues(tmp_path, names={"cat": "Felis catus"})
    assert "Felis catus" in gallery.cards[0].state.value
    assert gallery.cards[0].label.options == (("Felis catus", "cat"), ("dog", "dog"))


def test_nothing_to_review(tmp_path, watched):
    gallery = clusters(tmp_path, groups=())
    assert gallery.head.value == "Nothing to review." and len(gallery.children) == 1


# Clusters


def test_keeping_one_of_a_cluster_leaves_its_new_label(tmp_path, watched):
    decisions.relabel(tmp_path, "cat/2.jpg", sha1=f"{2:040x}", label="dog", source_label="cat")
    clusters(tmp_path).cards[1].buttons["only"].click()
    assert decided(tmp_path)["cat/2.jpg"] == ("relabel", "dog")


def test_a_photo_that_is_in_no_cluster_cannot_be_the_only_one(tmp_path, watched):
    gallery = label_issues(tmp_path)
    type_in(gallery, "kro")
    # The other photos of the review do not change.
    assert len(decided(tmp_path)) == 2 and gallery.at == 2
