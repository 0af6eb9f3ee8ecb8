"""What the dense loss asks of a scene, against the scene's own truth."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from PIL import Image

from florence_edge.locations import dequantise
from florence_train.scene_truth import (
    ATTRIBUTES,
    CLASSES,
    END,
    HELD,
    NO_PLACE,
    SURFACES,
    characters_held,
    characters_under,
    dense_truth,
)
from florence_train.tabletop import PrintedLabel, Scene, TabletopConfig, render, split_seed
from florence_train.tabletop.vocabulary import LABEL_ALPHABET


def test_the_dense_truth_is_what_lies_under_each_cell() -> None:
    scene = render(split_seed("val"), 3, TabletopConfig(height=96, width=96, objects=(3, 6)))
    classes, bins, _, whole = dense_truth(scene, (12, 16), (6, 8))
    assert whole.tolist() == [len(scene.objects)]
    seen: set[int | str] = set()
    for cell, (row, column) in enumerate(np.ndindex(6, 8)):
        y, x = int((row + 0.5) * 16), int((column + 0.5) * 12)
        owners = [thing for thing in scene.objects if thing.mask[y, x]]
        about = classes[cell, : len(ATTRIBUTES)]
        assert (about > 0).all() == bool(owners)
        assert (bins[cell] >= 0).all() == bool(owners)
        for thing in owners:
            seen.add(thing.depth)
            named = [values[index - 1] for (_, values), index in zip(ATTRIBUTES, about, strict=True)]
            assert named == [thing.kind, thing.colour, thing.size, thing.texture]
            box = dequantise(bins[cell].reshape(2, 2), scene.size).reshape(4)
            np.testing.assert_allclose(box, thing.box, atol=96 / 1000)
        surface = classes[cell, len(ATTRIBUTES)]
        assert (surface == 0) == bool(owners)
        if not owners:
            behind = f"{scene.wall} wall" if scene.wall_mask[y, x] else scene.table
            assert SURFACES[surface - 1] == behind
            seen.add(behind)
    assert len(seen) > 3


def test_the_wall_is_where_the_table_ends() -> None:
    """Below the line the picture changes with the table, above it with the wall: told by scenes without a wall."""
    shares = []
    for index in range(12):
        scene = render(split_seed("val"), index, TabletopConfig(height=96, width=96))
        assert (scene.wall_mask[:-1] >= scene.wall_mask[1:]).all(), "above, never below"
        assert (scene.wall is not None) == bool(scene.wall_mask.mean() > 0.02)
        shares.append(scene.wall_mask.mean())
    assert max(shares) > 0.2


def _held(scene: Scene, label: PrintedLabel, side: int, most: int) -> list[tuple[str, int]]:
    """What the cells that a label covers say they hold, ordered by the place they state."""
    pixels = scene.size.width / side
    cells = characters_held(scene, (side, side), most).reshape(side, side, most + 1)
    (left, top), (right, bottom) = (
        (label.quad.min(axis=0) / pixels).astype(int),
        (label.quad.max(axis=0) / pixels).astype(int),
    )
    said = [
        ("".join(LABEL_ALPHABET[i - 1] for i in spelt if i not in (0, END)), place)
        for *spelt, place in cells[max(0, top) : bottom + 1, max(0, left) : right + 1].reshape(-1, most + 1).tolist()
    ]
    return sorted((entry for entry in said if entry[0]), key=lambda entry: entry[1])


@pytest.mark.parametrize("side", [8, 16, 24])
def test_what_cells_hold_put_in_the_order_of_their_places_is_the_label(side: int) -> None:
    read = 0
    for index in range(8):
        scene = render(split_seed("val"), index, TabletopConfig(height=192, width=192, labels=1.0, objects=(1, 1)))
        for label in scene.labels:
            said = _held(scene, label, side, 8)
            assert "".join(text for text, _ in said) == label.text
            assert [place for _, place in said] == [
                1 + sum(len(text) for text, _ in said[:n]) for n in range(len(said))
            ]
            read += 1
    assert read >= 5


def test_a_spelling_ends_wherever_print_is_near_and_begins_nowhere_else() -> None:
    near = 0
    for index in range(6):
        scene = render(split_seed("val"), index, TabletopConfig(height=192, width=192, labels=1.0, slips=8))
        cells = characters_held(scene, (16, 16), 3)
        inked = characters_under(scene, (32, 32)).reshape(16, 2, 16, 2).any(axis=(1, 3)).ravel()
        spelt, place = cells[:, :3], cells[:, 3]
        assert ((cells == 0).all(axis=1) | (cells > 0).all(axis=1)).all(), "all classes or none"
        assert (place[inked] > 0).all()
        assert (spelt[:, 0] == END).tolist() == (place == NO_PLACE).tolist()
        assert ((spelt[:, 1:] == END) | (spelt[:, :-1] < END)).all(), "nothing follows an end"
        middles = {int(y / 12) * 16 + int(x / 12) for label in scene.labels for x, y in label.centres}
        assert set(np.flatnonzero((spelt[:, 0] > 0) & (spelt[:, 0] < END))) == middles
        near += int((spelt[:, 0] == END).sum())
    assert near > 20


def test_a_cell_spells_no_more_than_it_is_asked_to() -> None:
    scene = render(split_seed("val"), 0, TabletopConfig(height=192, width=192, labels=1.0, slips=8))
    whole = characters_held(scene, (1, 1), 3)[0]
    first = scene.labels[0].text
    assert whole.tolist() == [*(1 + LABEL_ALPHABET.index(character) for character in first[:3]), 1]


def test_each_cell_shows_the_character_printed_under_its_centre() -> None:
    """With cells as small as pixels, the characters of a label stand in columns of its straightened quad."""
    read = 0
    for index in range(6):
        scene = render(split_seed("val"), index, TabletopConfig(height=192, width=192, labels=1.0, objects=(1, 2)))
        under = characters_under(scene, (192, 192))
        assert bool(under.any()) == bool(scene.labels)
        for label in scene.labels:
            corners = [value for i in (0, 3, 2, 1) for value in label.quad[i].tolist()]
            shown = Image.fromarray(under.reshape(192, 192).astype(np.uint8))
            straight = np.asarray(shown.transform((96, 9), Image.Transform.QUAD, corners, Image.Resampling.NEAREST))
            row = [LABEL_ALPHABET[value - 1] for value in straight[4] if value]
            assert len(row) > 80
            runs = [character for character, _ in groupby(row)]
            assert runs == [character for character, _ in groupby(label.text)]
            read += 1
    assert read >= 4


def test_every_class_has_a_column_and_none_is_beyond_its_head() -> None:
    for index in range(6):
        scene = render(split_seed("val"), index, TabletopConfig(height=192, width=192, labels=1.0, slips=8))
        classes, bins, characters, whole = dense_truth(scene, (16, 16), (8, 8))
        assert len(classes) == len(bins) == 64
        assert len(characters) == 256
        for found, heads in ((classes, CLASSES.attributes), (characters, CLASSES.characters)):
            assert found.shape[1] == len(heads)
            assert (found.max(axis=0) <= heads).all()
        assert whole.max() < CLASSES.whole[0]
        np.testing.assert_array_equal(characters[:, 0], characters_under(scene, (16, 16)))
        np.testing.assert_array_equal(characters[:, 1:], characters_held(scene, (16, 16), HELD[0])[:, :-1])
        np.testing.assert_array_equal(classes[:, -HELD[1] - 1 :], characters_held(scene, (8, 8), HELD[1]))
