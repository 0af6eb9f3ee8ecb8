"""A scene is a function of its seed, and its truth agrees with its pixels."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from florence_edge.errors import InputError
from florence_train.tabletop import SPLITS, Scene, TabletopConfig, render, split_seed
from florence_train.tabletop.lettering import FONTS, font_folder, places
from florence_train.tabletop.sheet import truth
from florence_train.tabletop.vocabulary import COLOURS, KINDS, LABEL_ALPHABET, SIZES, TABLES, TEXTURES, WALLS

COUNT = 60
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render(split_seed("test"), index) for index in range(COUNT)]


def _objects(scenes: list[Scene]) -> Iterator[tuple[Scene, int]]:
    for scene in scenes:
        for index in range(len(scene.objects)):
            yield scene, index


def test_same_seed_gives_the_same_bytes_in_another_process(scenes: list[Scene]) -> None:
    code = (
        "import hashlib, json; from florence_train.tabletop import render, split_seed\n"
        "from florence_train.tabletop.sheet import truth\n"
        "s = [render(split_seed('test'), i) for i in (5, 3)]\n"
        "print([hashlib.sha256(x.image.tobytes() + json.dumps(truth(x)).encode()).hexdigest() for x in s])"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'sdk'}{os.pathsep}{ROOT / 'training'}", "PYTHONHASHSEED": "7"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    here = [
        hashlib.sha256(scenes[i].image.tobytes() + json.dumps(truth(scenes[i])).encode()).hexdigest() for i in (5, 3)
    ]
    assert run.stdout.strip() == str(here)


def test_scenes_differ_by_seed_and_by_index(scenes: list[Scene]) -> None:
    images = [scene.image.tobytes() for scene in scenes] + [
        render(split_seed("val"), i).image.tobytes() for i in (0, 1)
    ]
    assert len(set(images)) == len(images)


def test_splits_share_no_seed() -> None:
    for first, second in combinations(SPLITS.values(), 2):
        assert not set(first) & set(second)
    assert {split_seed(name) for name in SPLITS} == {seeds[0] for seeds in SPLITS.values()}
    with pytest.raises(InputError, match="does not exist"):
        split_seed("val", len(SPLITS["val"]))
    with pytest.raises(InputError, match="unknown split"):
        split_seed("dev")


def test_picture_has_the_shape_asked_for() -> None:
    scene = render(0, 0, TabletopConfig(height=120, width=200, degrade=0.0))
    assert scene.image.shape == (120, 200, 3)
    assert scene.image.dtype == np.uint8
    assert tuple(scene.size) == (200, 120)
    assert all(thing.mask.shape == (120, 200) for thing in scene.objects)


def test_bad_options_are_listed_together() -> None:
    with pytest.raises(InputError) as caught:
        TabletopConfig(height=10, objects=(3, 2), degrade=2.0)
    assert all(word in str(caught.value) for word in ("height", "objects", "degrade"))
    with pytest.raises(InputError, match="negative"):
        render(-1, 0)


def test_words_come_from_the_vocabulary(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.table in TABLES
        assert scene.wall is None or scene.wall in WALLS
        for label in scene.labels:
            assert 3 <= len(label.text) <= 8
            assert set(label.text) <= set(LABEL_ALPHABET)
    for scene, index in _objects(scenes):
        thing = scene.objects[index]
        assert thing.kind in KINDS
        assert thing.colour in COLOURS
        assert thing.size in SIZES
        assert thing.texture in TEXTURES


def test_every_word_of_the_vocabulary_is_used() -> None:
    scenes = [render(1, index, TabletopConfig(height=64, width=64, supersample=1)) for index in range(150)]
    things = [thing for scene in scenes for thing in scene.objects]
    assert {thing.kind for thing in things} == set(KINDS)
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {thing.size for thing in things} == set(SIZES)
    assert {thing.texture for thing in things} == set(TEXTURES)
    assert {scene.table for scene in scenes} == set(TABLES)
    assert {scene.wall for scene in scenes} - {None} == set(WALLS)


def test_boxes_are_tight_around_masks(scenes: list[Scene]) -> None:
    for scene, index in _objects(scenes):
        thing = scene.objects[index]
        rows, columns = ndimage.find_objects(thing.mask.astype(int))[0]
        tight = [columns.start, rows.start, columns.stop, rows.stop]
        # The box is exact to the sample; the mask holds the pixels that are covered by half or more.
        assert np.abs(thing.box - tight).max() <= 1.0
        assert (thing.box[:2] >= 0).all()
        assert (thing.box[2:] <= scene.size).all()


def test_masks_do_not_overlap(scenes: list[Scene]) -> None:
    for scene in scenes:
        total = np.sum([thing.mask for thing in scene.objects], axis=0)
        # Two objects may each cover exactly half of a pixel on their common border.
        assert (total > 1).mean() < 0.002


def test_polygons_fill_to_the_visible_mask(scenes: list[Scene]) -> None:
    scale = 4
    for scene, index in _objects(scenes):
        thing = scene.objects[index]
        size = (scene.size.width * scale, scene.size.height * scale)
        canvas = Image.new("1", size)
        for ring in thing.polygons:
            assert 3 <= len(ring) <= 32
            ImageDraw.Draw(canvas).polygon([(x * scale - 0.5, y * scale - 0.5) for x, y in ring.tolist()], fill=1)
        filled = np.asarray(canvas).reshape(scene.size.height, scale, scene.size.width, scale).mean((1, 3)) >= 0.5
        assert (filled & thing.mask).sum() / (filled | thing.mask).sum() > 0.9, (scene.index, thing.kind)


def test_polygons_run_clockwise_from_the_top(scenes: list[Scene]) -> None:
    for scene, index in _objects(scenes):
        for ring in scene.objects[index].polygons:
            x, y = ring.astype(float).T
            assert (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() > 0
            assert y[0] == y.min()


def test_objects_run_left_to_right_and_are_visible(scenes: list[Scene]) -> None:
    for scene in scenes:
        centres = [thing.centre[0] for thing in scene.objects]
        assert centres == sorted(centres)
        assert sorted(thing.depth for thing in scene.objects) == list(range(len(scene.objects)))
        assert all(0.25 <= thing.visible <= 1 for thing in scene.objects)


def test_nearer_rows_stand_nearer() -> None:
    for index in range(40):
        for a, b in combinations(render(2, index, TabletopConfig(height=64, width=64)).objects, 2):
            if a.row < b.row:
                assert a.ground[1] < b.ground[1]
                assert a.depth < b.depth


def test_occlusion_happens_and_what_covers_is_nearer() -> None:
    config = TabletopConfig(height=128, width=128, objects=(5, 6), degrade=0.0)
    covered = 0
    for index in range(40):
        scene = render(3, index, config)
        for thing in scene.objects:
            if thing.visible < 0.9:
                covered += 1
                assert any(other.depth < thing.depth for other in scene.objects)
    assert covered >= 5


def test_a_farther_object_is_drawn_behind() -> None:
    """The mask of what is covered ends where the nearer one begins: no hidden sample is claimed."""
    for index in range(20):
        scene = render(3, index, TabletopConfig(objects=(5, 6), degrade=0.0))
        for thing in scene.objects:
            for other in scene.objects:
                if other.depth < thing.depth:
                    assert not (thing.mask & ndimage.binary_erosion(other.mask)).any()


def test_quads_lie_inside_and_run_clockwise(scenes: list[Scene]) -> None:
    labels = [(scene, label) for scene in scenes for label in scene.labels]
    assert len(labels) >= 15
    for scene, label in labels:
        assert (label.quad >= 0).all()
        assert (label.quad <= scene.size).all()
        x, y = label.quad.astype(float).T
        assert (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() > 0
        assert label.carrier is not None
        low, high = label.quad.min(0), label.quad.max(0)
        box = scene.objects[label.carrier].box
        assert (low >= box[:2] - 0.5).all()
        assert (high <= box[2:] + 0.5).all()


def test_characters_lie_in_a_row_inside_their_quad(scenes: list[Scene]) -> None:
    for scene in scenes:
        for label in scene.labels:
            assert len(label.centres) == len(label.text)
            left, right = (label.quad[0] + label.quad[3]) / 2, (label.quad[1] + label.quad[2]) / 2
            along = (label.centres - left) @ (right - left) / ((right - left) ** 2).sum()
            assert (np.diff([0.0, *along, 1.0]) > 0).all()


@pytest.mark.parametrize("font", FONTS)
def test_the_centre_of_a_character_is_where_it_is_drawn(font: str) -> None:
    face = ImageFont.truetype(str(font_folder() / f"{font}.ttf"), 96)
    text = "1WM7"
    whole = face.getmask(text).size[0]
    for index, along in enumerate(places(text, font)):
        others = Image.new("L", (whole + 200, 150))
        ImageDraw.Draw(others).text((50, 10), text[:index] + " " * 9, fill=255, font=face)
        shown = Image.new("L", others.size)
        ImageDraw.Draw(shown).text((50, 10), text[: index + 1], fill=255, font=face)
        ink = np.flatnonzero((np.asarray(shown, int) - np.asarray(others, int)).max(axis=0) > 128)
        start = np.flatnonzero(np.asarray(shown).max(axis=0) > 128)[0]
        assert (ink[0] + ink[-1]) / 2 - start == pytest.approx(along * whole, abs=0.06 * whole)


def test_every_card_can_be_read(scenes: list[Scene]) -> None:
    for scene in scenes:
        readable = {label.carrier for label in scene.labels}
        assert {i for i, thing in enumerate(scene.objects) if thing.kind == "card"} <= readable


def _printed(text: str, font: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The ink of a text, stretched over a canvas."""
    face = ImageFont.truetype(str(font_folder() / f"{font}.ttf"), 48)
    left, top, right, bottom = face.getbbox(text)
    image = Image.new("L", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(image).text((-left, -top), text, fill=255, font=face)
    return np.asarray(image.resize((128, 32)), np.float64)


@pytest.mark.parametrize("slips", [0, 4])
def test_quads_straighten_to_the_text_the_right_way_up(slips: int) -> None:
    """The picture pulled straight by its quad (by Pillow) looks like the text, and not like the text upside down."""
    config = TabletopConfig(height=384, width=384, labels=1.0, degrade=0.0, objects=(1, 3), clutter=0.0, slips=slips)
    likeness = []
    for index in range(8):
        scene = render(4, index, config)
        for label in scene.labels:
            corners = [value for i in (0, 3, 2, 1) for value in label.quad[i].tolist()]
            straight = Image.fromarray(scene.image).convert("L").transform((128, 32), Image.Transform.QUAD, corners)
            seen = np.asarray(straight, np.float64)
            prints = [_printed(label.text, font) for font in FONTS]
            upright = max(abs(np.corrcoef(seen.ravel(), ink.ravel())[0, 1]) for ink in prints)
            turned = max(abs(np.corrcoef(seen.ravel(), ink[::-1, ::-1].ravel())[0, 1]) for ink in prints)
            assert upright > turned, (index, label.text)
            likeness.append(upright)
    assert len(likeness) >= 8
    assert np.median(likeness) > 0.75


def test_slips_lie_where_nothing_else_is_and_leave_the_rest_as_it_was() -> None:
    config = TabletopConfig(height=160, width=160, degrade=0.0)
    count = 0
    for index in range(10):
        plain, strewn = render(5, index, config), render(5, index, replace(config, slips=8))
        assert [truth(plain)["objects"], plain.table] == [truth(strewn)["objects"], strewn.table]
        lefts = [float(label.quad[:, 0].mean()) for label in strewn.labels]
        assert lefts == sorted(lefts)
        texts = {label.text for label in plain.labels}
        slips = [label for label in strewn.labels if label.text not in texts]
        assert len(slips) == len(strewn.labels) - len(plain.labels) <= 8
        changed = (plain.image != strewn.image).any(axis=2)
        assert changed.any() == bool(slips)
        boxes = [thing.box for thing in plain.objects]
        for label in slips:
            boxes.append(np.concatenate([label.quad.min(0), label.quad.max(0)]))
            assert label.carrier is None
            assert (label.quad >= 0).all()
            assert (label.quad <= 160).all()
        for thing in plain.objects:
            assert not (changed & thing.mask).any()
        for one, other in combinations(boxes[len(plain.objects) :], 2):
            assert (np.minimum(one[2:], other[2:]) <= np.maximum(one[:2], other[:2])).any()
        count += len(slips)
    assert count >= 25


def test_colour_alone_does_not_tell_the_kind(scenes: list[Scene]) -> None:
    """The best guess of the kind from the colour is right less than half the time."""
    things = [scene.objects[index] for scene, index in _objects(scenes) if scene.objects[index].kind != "card"]
    right = 0
    for colour in COLOURS:
        kinds = [thing.kind for thing in things if thing.colour == colour]
        right += max((kinds.count(kind) for kind in KINDS), default=0)
    assert right / len(things) < 0.5


def test_a_picture_without_room_is_refused() -> None:
    config = TabletopConfig(height=64, width=1024, scale=2.0, supersample=1)
    with pytest.raises(InputError, match="no object of scale 2"):
        render(0, 0, config)
