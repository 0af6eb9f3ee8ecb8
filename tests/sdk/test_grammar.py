"""Reading answers by example: every form, every malformed span, scores, classes, and what `parse` refuses."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from florence_edge.errors import BundleError, InputError
from florence_edge.geometry import ImageSize
from florence_edge.grammar import ParseOptions, parse, parse_ids
from florence_edge.results import Detections, Polygons, Quads, Text
from florence_edge.tasks import find
from florence_edge.vocabulary import Vocabulary
from support.vocabularies import published_tokenizer, published_tokens, small_tokens

SIZE = (1000, 1000)
BOX = "<loc_1><loc_2><loc_3><loc_4>"
QUAD = "<loc_1><loc_2><loc_3><loc_2><loc_3><loc_4><loc_1><loc_4>"
RING = "<loc_1><loc_2><loc_3><loc_2><loc_3><loc_4>"
OVD = "<OPEN_VOCABULARY_DETECTION>"
RES = "<REFERRING_EXPRESSION_SEGMENTATION>"


def detections(task: str, text: str, **options: Any) -> Detections:
    result = parse(task, text, SIZE, options=ParseOptions(**options))
    assert isinstance(result, Detections)
    return result


def polygons(text: str, **options: Any) -> Polygons:
    result = parse(RES, text, SIZE, options=ParseOptions(**options))
    assert isinstance(result, Polygons)
    return result


def test_boxes_of_one_label_share_it() -> None:
    result = detections("<OD>", f"</s><s>car{BOX}<loc_5><loc_6><loc_7><loc_8>door{BOX}</s><pad>")
    assert result.labels == ("car", "car", "door")
    assert result.class_ids.tolist() == [0, 0, 1]
    assert result.boxes.tolist() == [[1.5, 2.5, 3.5, 4.5], [5.5, 6.5, 7.5, 8.5], [1.5, 2.5, 3.5, 4.5]]
    assert result.boxes.dtype == np.float32
    assert (result.finish, result.tokens, result.dropped) == ("eos", 0, 0)
    assert result.raw == f"car{BOX}<loc_5><loc_6><loc_7><loc_8>door{BOX}"
    assert result.size == ImageSize(1000, 1000)
    assert result.polygons == ((), (), ())


def test_corners_are_ordered_and_pixels_are_those_of_the_image() -> None:
    result = parse("<OD>", "car<loc_932><loc_332><loc_52><loc_774>", (640, 480))
    np.testing.assert_allclose(result.to_dict()["boxes"], [[33.6, 159.6, 596.8, 371.76]], rtol=1e-6)


def test_proposals_have_no_label() -> None:
    result = detections("<REGION_PROPOSAL>", BOX + BOX)
    assert result.labels == ("", "")
    assert result.class_ids.tolist() == [0, 0]


def test_quads_keep_the_order_of_their_corners() -> None:
    result = parse("<OCR_WITH_REGION>", f"</s><s>STOP{QUAD}two\nlines{QUAD}</s>", SIZE)
    assert isinstance(result, Quads)
    assert result.texts == ("STOP", "two\nlines")
    assert result.quads.shape == (2, 4, 2)
    assert result.quads[0].tolist() == [[1.5, 2.5], [3.5, 2.5], [3.5, 4.5], [1.5, 4.5]]


def test_rings_of_one_mask_and_several_masks() -> None:
    one = polygons(f"{RING}<sep>{RING}<loc_9><loc_9>", label="the cup")
    assert [[len(ring) for ring in rings] for rings in one.polygons] == [[3, 4]]
    assert one.labels == ("the cup",)
    several = polygons(f"<poly>{RING}</poly><poly>{RING}<sep>{RING}</poly>")
    assert [len(rings) for rings in several.polygons] == [1, 2]
    assert several.labels == ("", "")
    assert polygons(f"cup<poly>{RING}</poly>", label="the cup").labels == ("cup",)


def test_open_vocabulary_boxes_and_masks_side_by_side() -> None:
    result = detections(OVD, f"cup{BOX}ball<poly>{RING}<sep><loc_9><loc_0><loc_9><loc_9><loc_7><loc_7></poly>")
    assert result.labels == ("cup", "ball")
    assert result.boxes.tolist() == [[1.5, 2.5, 3.5, 4.5], [1.5, 0.5, 9.5, 9.5]]
    assert [len(rings) for rings in result.polygons] == [0, 2]
    assert result.dropped == 0


def test_class_names_may_be_one_or_a_list_and_nothing_else() -> None:
    assert ParseOptions(classes="cup").classes == ("cup",)  # type: ignore[arg-type] # as callers do
    assert ParseOptions(classes=["cup ", "ball"]).classes == ("cup", "ball")  # type: ignore[arg-type] # as callers do
    with pytest.raises(InputError, match="a class name"):
        ParseOptions(classes=(" ",))


def test_class_ids_count_the_classes_given_whatever_the_case() -> None:
    result = detections(OVD, f"BALL{BOX}cup{BOX}car{BOX}", classes=("Cup", "ball"))
    assert result.class_ids.tolist() == [1, 0, -1]
    assert result.classes == ("Cup", "ball")


def test_text_answers_leave_added_tokens_out() -> None:
    result = parse("<REGION_TO_CATEGORY>", f"</s><s>a cup{BOX}</s><pad>", SIZE)
    assert isinstance(result, Text)
    assert (result.text, result.raw, result.dropped) == ("a cup", f"a cup{BOX}", 0)
    assert math.isnan(result.score)


@pytest.mark.parametrize(
    "task", ["<OD>", "<REGION_PROPOSAL>", "<CAPTION_TO_PHRASE_GROUNDING>", OVD, RES, "<OCR_WITH_REGION>"]
)
def test_nothing_found_is_empty_and_not_malformed(task: str) -> None:
    for text in ("", "</s><s></s>", "<s>No object detected.</s>", " "):
        result = parse(task, text, SIZE)
        assert (len(result), result.dropped) == (0, 0)
    assert parse("<OD>", "", SIZE).to_dict()["boxes"] == []


def test_nothing_found_is_a_text_where_text_is_asked_for() -> None:
    assert str(parse("<REGION_TO_DESCRIPTION>", "<s>No object detected.</s>", SIZE)) == "No object detected."


@pytest.mark.parametrize("text", [f"it{BOX}", f" the image {BOX}", f"a group{BOX}"])
def test_ungroundable_phrases(text: str) -> None:
    assert len(parse("<CAPTION_TO_PHRASE_GROUNDING>", text, SIZE)) == 0
    assert len(detections("<CAPTION_TO_PHRASE_GROUNDING>", text, skip_ungroundable=False)) == 1
    assert len(parse("<OD>", text, SIZE)) == 1


def test_labels_keep_their_characters_unless_asked() -> None:
    assert detections("<OD>", f"café 汽车{BOX}").labels == ("café 汽车",)
    assert detections("<OD>", f"café 汽车{BOX}", ascii_labels=True).labels == ("caf ",)


@pytest.mark.parametrize(
    ("task", "text", "kept", "dropped"),
    [
        ("<OD>", f"car{BOX}door<loc_1><loc_2><loc_3>", 1, 1),
        ("<OD>", f"car{BOX}<loc_5>door{BOX}", 2, 1),
        ("<OD>", f"car{BOX}door", 1, 1),
        ("<OD>", f"{BOX}car{BOX}", 1, 1),
        ("<OD>", f"car<od>{BOX}", 0, 2),
        ("<OD>", f"car{BOX}<sep>{BOX}", 1, 1),
        ("<OD>", f"a < b{BOX}", 1, 0),
        ("<OD>", "car <loc_1> <loc_2> <loc_3> <loc_4> ", 1, 0),
        ("<REGION_PROPOSAL>", f"{BOX}<loc_1>", 1, 1),
        ("<REGION_PROPOSAL>", f"car{BOX}", 1, 1),
        ("<OCR_WITH_REGION>", f"STOP{QUAD}<loc_1>", 1, 1),
        ("<OCR_WITH_REGION>", f"STOP{BOX}EXIT{QUAD}", 1, 1),
        ("<OCR_WITH_REGION>", QUAD, 0, 1),
        (RES, f"{RING}<loc_1>", 1, 1),
        (RES, f"{BOX}<sep>{RING}", 1, 1),
        (RES, f"<poly>{RING}</poly><poly>{RING}", 1, 1),
        (RES, f"<poly>{RING}<poly>{RING}</poly>", 1, 1),
        (RES, f"{RING}<poly>{RING}</poly>{RING}", 1, 2),
        (RES, f"<poly>{RING}", 1, 0),
        (RES, f"{RING}</poly>", 0, 1),
        (RES, "cup", 0, 1),
        (RES, "<sep><poly></poly>", 0, 0),
        (OVD, f"<poly>{RING}</poly>", 0, 1),
        (OVD, "cup<poly></poly>", 0, 1),
        (OVD, f"cup<poly>{BOX}</poly>", 0, 1),
    ],
)
def test_malformed_spans_are_left_out_and_counted(task: str, text: str, kept: int, dropped: int) -> None:
    result = parse(task, text, SIZE)
    assert (len(result), result.dropped) == (kept, dropped)


def scored(task: str, text: str, default: float = 0.5, **probability: float) -> Any:
    """The answer as ids, each token with probability `default`, or the one given for its spelling."""
    tokens = small_tokens()
    ids = tokens.encode(text)
    chosen = [probability.get(tokens.decode([index]).strip("<>/"), default) for index in ids.tolist()]
    return parse_ids(find(task), ids, SIZE, tokens=tokens, logprobs=np.log(chosen))


def test_a_box_is_scored_by_its_label_and_its_own_coordinates() -> None:
    far = "<loc_5><loc_6><loc_7><loc_8>"
    result = scored("<OD>", f"car{BOX}{far}", car=0.1, loc_5=0.9, loc_6=0.9, loc_7=0.9, loc_8=0.9, s=1e-9)
    np.testing.assert_allclose(result.scores, [(0.1 * 0.5**4) ** (1 / 5), (0.1 * 0.9**4) ** (1 / 5)], rtol=1e-6)


def test_proposals_lines_masks_and_captions_are_scored() -> None:
    np.testing.assert_allclose(
        scored("<REGION_PROPOSAL>", BOX, loc_1=0.25).scores, [(0.25 * 0.5**3) ** (1 / 4)], rtol=1e-6
    )
    np.testing.assert_allclose(scored("<OCR_WITH_REGION>", f"car{QUAD}", car=1.0).scores, [0.5 ** (8 / 9)], rtol=1e-6)
    mask = scored(RES, f"<poly>{RING}<loc_9><sep>{RING}</poly>", poly=1e-9, sep=1e-9, loc_9=1e-9)
    np.testing.assert_allclose(mask.scores, [0.5], rtol=1e-6)
    np.testing.assert_allclose(scored("<CAPTION>", "carcar<loc_9>", loc_9=1e-9, s=1e-9).scores, [0.5], rtol=1e-6)


def test_control_tokens_inside_a_span_do_not_count() -> None:
    result = scored("<OD>", "car<pad>car<loc_1><s><loc_2><loc_3><loc_4>", pad=1e-9, s=1e-9, car=0.1)
    assert result.labels == ("carcar",)
    np.testing.assert_allclose(result.scores, [(0.1**2 * 0.5**4) ** (1 / 6)], rtol=1e-6)


def test_an_impossible_token_scores_zero_and_none_at_all_is_unknown() -> None:
    tokens = small_tokens()
    ids = tokens.encode(f"car{BOX}")
    assert parse("<OD>", ids, SIZE, tokenizer=tokens, logprobs=np.full(len(ids), -np.inf)).scores.tolist() == [0]
    assert math.isnan(parse("<CAPTION>", [0, 2], SIZE, tokenizer=tokens, logprobs=[0.0, 0.0]).scores[0])


@pytest.mark.parametrize(
    ("text", "finish"),
    [
        ("</s><s>a car</s><pad>", "eos"),
        ("<s>a car", "length"),
        ("</s><s>a car<pad>", "length"),
        ("a car", "eos"),
        ("", "eos"),
    ],
)
def test_how_an_answer_ended(text: str, finish: str) -> None:
    assert parse("<CAPTION>", text, SIZE).finish == finish
    tokens = small_tokens()
    assert parse("<CAPTION>", tokens.encode(text)[1:-1], SIZE, tokenizer=tokens).finish == finish


def test_a_backend_knows_better_how_it_ended() -> None:
    ids = small_tokens().encode("a car")
    assert parse_ids(find("<CAPTION>"), ids, SIZE, tokens=small_tokens(), finish="length").finish == "length"


def test_ids_count_their_tokens_but_for_padding() -> None:
    tokens = small_tokens()
    ids = [2, *tokens.encode(f"car{BOX}").tolist(), 1, 1]
    result = parse("<OD>", ids, SIZE, tokenizer=tokens)
    assert (result.tokens, result.raw) == (len(ids) - 2, f"car{BOX}")


def test_text_that_spells_a_token_stays_text_in_ids() -> None:
    tokens = small_tokens()
    spelled = [index for character in "<loc_5>" for index in tokens.encode(character)[1:-1].tolist()]
    result = parse("<OD>", [*spelled, *tokens.encode(BOX).tolist()], SIZE, tokenizer=tokens)
    assert result.to_dict()["labels"] == ["<loc_5>"]


def test_published_locations_need_no_tokenizer() -> None:
    first = Vocabulary().first_location
    result = parse("<REGION_PROPOSAL>", [2, 0, first + 1, first + 2, first + 3, first + 4, 2, 1], SIZE)
    assert result.to_dict()["boxes"] == [[1.5, 2.5, 3.5, 4.5]]
    with pytest.raises(InputError, match="pass tokenizer="):
        parse("<OD>", [0, 2000, first, first, first, first, 2], SIZE)


def test_a_tokenizer_may_be_given_as_a_file_a_folder_or_tokens(tmp_path: Path) -> None:
    published_tokenizer().save(str(tmp_path / "tokenizer.json"))
    ids = published_tokens().encode(f"café{BOX}")
    for tokenizer in (tmp_path, str(tmp_path / "tokenizer.json"), published_tokens()):
        assert parse("<OD>", ids, SIZE, tokenizer=tokenizer).to_dict()["labels"] == ["café"]
    with pytest.raises(BundleError, match="there is no tokenizer"):
        parse("<OD>", ids, SIZE, tokenizer=tmp_path / "absent")


@pytest.mark.parametrize("name", ["", "tokenizer.json"])
def test_a_changed_tokenizer_is_read_anew(tmp_path: Path, name: str) -> None:
    file = tmp_path / "tokenizer.json"
    published_tokenizer().save(str(file))
    ids = published_tokens().encode("car")
    assert str(parse("<CAPTION>", ids, SIZE, tokenizer=tmp_path / name)) == "car"
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(BundleError, match="not a tokenizer"):
        parse("<CAPTION>", ids, SIZE, tokenizer=tmp_path / name)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"task": "<VQA>"}, "unknown task"),
        ({"size": (0, 10)}, "width 0"),
        ({"size": (480, 640, 3)}, "two whole numbers"),
        ({"text_or_ids": [[0, 1], [2, 3]]}, r"shape \[2, 2\]"),
        ({"text_or_ids": [0.5]}, "float64"),
        ({"text_or_ids": None}, "object"),
        ({"text_or_ids": [2**70]}, "object"),
        ({"text_or_ids": b"car"}, "token ids"),
        ({"logprobs": [0.0]}, "give the ids"),
        ({"text_or_ids": [[0], [1, 2]]}, "cannot be read as an array"),
        ({"text_or_ids": [0, 2], "logprobs": [0.0]}, r"one per token id, \[2\]; got float64 of shape \[1\]"),
        ({"text_or_ids": [0, 2], "logprobs": ["a", "b"]}, "logprobs are numbers"),
        ({"text_or_ids": [0, 2], "logprobs": [0, [1]]}, "cannot be read as an array"),
        ({"text_or_ids": [0, 2], "tokenizer": object()}, "or Tokens; got object"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        parse(**{"task": "<OD>", "text_or_ids": "", "size": SIZE, **arguments})


def test_reading_text_needs_neither_the_tokenizers_library_nor_a_framework() -> None:
    code = (
        "import sys; from florence_edge.grammar import parse; parse('<OD>', 'car', (1, 1)); "
        "print({'tokenizers', 'torch', 'onnxruntime', 'cv2', 'transformers', 'PIL'} & set(sys.modules))"
    )
    sdk = Path(__file__).parents[2] / "sdk"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(sdk)}, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "set()"
