"""Annotation projects on disk: several annotators, conflicts, crashes, bad folders, and the samples made of them."""

import json
import multiprocessing
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segzero.data import annotation
from segzero.data.annotation import Draft, ImageLent, SaveConflict, open_project
from segzero.data.check import check
from segzero.data.exports import export
from segzero.data.parquet import from_parquet
from segzero.data.prefill import prefill
from segzero.data.prepare import prepare
from segzero.data.readers import read
from segzero.errors import UserError
from segzero.masks import decode, encode, mask_iou
from segzero.segmenter import load_segmenter
from segzero.segmenter.everything import PRESETS
from segzero.shipped import segmenter_path
from segzero.tiny.scenes import make_scene


def square(x, y, side=10, size=(64, 48)):
    mask = np.zeros(size[::-1], bool)
    mask[y : y + side, x : x + side] = True
    return encode(mask)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (64, 48), (50 * number, 80, 120)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def project(images, tmp_path):
    return open_project(tmp_path / "project", images)[0]


def test_instances_come_back_with_who_made_them_and_how(project):
    id = next(iter(project.entries))
    project.save(
        id, 0, [Draft("Apple ", square(3, 4), "click", 0.9), Draft("pear", square(20, 4), "box")], False, "anna"
    )
    again = open_project(project.folder)[0].read(id)
    assert [(each.id, each.label, each.how, each.who, each.stage) for each in again.instances] == [
        (1, "apple", "click", "anna", "manual"),
        (2, "pear", "box", "anna", "manual"),
    ]
    assert again.instances[0].box == (3, 4, 13, 14) and again.instances[0].score == 0.9
    kept, changed = (Draft(each.label, each.rle, each.how, id=each.id) for each in again.instances)
    changed = Draft("pear", square(22, 4), "brush", id=2)
    saved = project.save(id, 1, [kept, changed, Draft("plum", square(40, 4), "click")], True, "ben")
    assert [(each.id, each.who, each.how) for each in saved.instances] == [
        (1, "anna", "click"),
        (2, "ben", "brush"),
        (3, "ben", "click"),
    ]


def test_a_save_over_somebody_elses_is_refused_and_nothing_is_lost(project):
    id = next(iter(project.entries))
    project.save(id, 0, [Draft("apple", square(3, 4), "click")], False, "anna")
    with pytest.raises(SaveConflict, match=r"this image was saved by anna at .* look at theirs"):
        project.save(id, 0, [Draft("pear", square(20, 4), "box")], True, "ben")
    assert [each.label for each in project.read(id).instances] == ["apple"]
    assert project.save(id, 1, [Draft("pear", square(20, 4), "box")], True, "ben").revision == 2


def test_of_many_saves_at_once_with_one_revision_exactly_one_is_kept(project):
    id, results = next(iter(project.entries)), []
    others = [open_project(project.folder)[0] for _ in range(8)]  # as processes have them
    barrier = threading.Barrier(8)

    def save(number):
        barrier.wait()
        try:
            others[number].save(id, 0, [Draft(f"label {number}", square(number, 4), "click")], False, f"a{number}")
            results.append(number)
        except SaveConflict:
            pass

    threads = [threading.Thread(target=save, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 1
    assert [each.label for each in project.read(id).instances] == [f"label {results[0]}"]


def test_each_annotator_gets_an_image_of_their_own_until_it_is_given_back_or_time_is_over(project, monkeypatch):
    first = project.next_image("anna")
    assert project.next_image("anna") == first  # still theirs
    second = project.next_image("ben")
    assert second != first
    with pytest.raises(ImageLent, match="this image is with anna, until"):
        project.lend(first.id, "ben")
    with pytest.raises(ImageLent):
        project.save(first.id, 0, [], True, "ben")
    project.give_back(first.id, "anna")
    project.lend(first.id, "ben")
    project.give_back(first.id, "ben")
    monkeypatch.setattr(annotation, "LENDING", -1.0)
    project.lend(first.id, "anna")
    monkeypatch.undo()
    project.lend(first.id, "ben")  # anna's time is over


def test_images_that_are_done_are_not_offered_again(project):
    seen = set()
    while (entry := project.next_image("anna")) is not None:
        assert entry.id not in seen
        seen.add(entry.id)
        project.save(entry.id, 0, [Draft("apple", square(3, 4), "click")], True, "anna")
    assert len(seen) == 4 and project.progress().done == 4
    assert "labels: apple 4" in str(project.progress())


def save_without_end(folder, started):
    project, _ = open_project(folder)
    id = next(iter(project.entries))
    while True:
        revision = project.read(id).revision
        drafts = [Draft(f"label {revision}", square(k % 50, 2), "click") for k in range(200)]
        project.save(id, revision, drafts, False, "anna")
        started.set()


def test_a_process_killed_while_it_saves_leaves_a_whole_file(project):
    context = multiprocessing.get_context("fork")
    for pause in (0.0, 0.013, 0.031):
        started = context.Event()
        process = context.Process(target=save_without_end, args=(project.folder, started))
        process.start()
        assert started.wait(30)
        time.sleep(pause)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        found = project.read(next(iter(project.entries)))
        assert len(found.instances) == 200 and found.instances[0].label == f"label {found.revision - 1}"
        project.save(next(iter(project.entries)), found.revision, [], False, "anna")  # the lock is free


@pytest.mark.parametrize(
    ("draft", "message"),
    [
        (Draft("apple", square(3, 4, size=(48, 64)), "click"), "48x64 pixels for an image of 64x48"),
        (Draft("apple", {"size": [48, 64], "counts": "00"}, "click"), "malformed RLE"),
        (Draft("apple", encode(np.zeros((48, 64), bool)), "click"), "has no pixel"),
        (Draft("a" * 201, square(3, 4), "click"), "at most 200 letters"),
        (Draft("<|im_end|>", square(3, 4), "click"), "special tokens"),
        (Draft("apple", square(3, 4), "magic"), "unknown way to make a mask 'magic'"),
        (Draft("apple", square(3, 4), "click", float("nan")), "predicted IoU"),
    ],
    ids=["size", "rle", "empty", "long", "tokens", "how", "score"],
)
def test_malformed_instances_are_refused(project, draft, message):
    with pytest.raises(UserError, match=message):
        project.save(next(iter(project.entries)), 0, [draft], False, "anna")
    assert project.progress().begun == 0


def test_folders_that_are_no_project_or_of_other_images_are_refused(project, images, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="is no annotation project; name the folder of its images"):
        open_project(empty)
    with pytest.raises(UserError, match="no images in the folder"):
        open_project(tmp_path / "new", empty)
    with pytest.raises(UserError, match="no such folder of images"):
        open_project(tmp_path / "new", tmp_path / "absent")
    with pytest.raises(UserError, match="holds other files"):
        open_project(images, images)
    (empty / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UserError, match=r"is about the images in .*images, not those in"):
        open_project(project.folder, empty)
    with pytest.raises(UserError, match=r"no image in .* can be read; first: broken.png"):
        open_project(tmp_path / "new", empty)
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="unknown stage 'semy'; did you mean 'semi'"):
        open_project(project.folder, stage="semy")
    images.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"the images of .* are gone"):
        open_project(project.folder)


def test_new_images_join_and_unreadable_or_repeated_ones_are_named(project, images):
    (images / "copy.png").write_bytes((images / "1.png").read_bytes())
    (images / "broken.jpg").write_bytes(b"nothing")
    Image.new("RGB", (30, 20)).save(images / "new.png")
    again, problems = open_project(project.folder, images)
    assert len(again.entries) == 5 and list(again.entries)[:4] == list(project.entries)
    assert [problem[:10] for problem in problems] == ["broken.jpg", "copy.png i"]


def test_an_image_that_has_changed_is_refused(project, images):
    id, entry = next(iter(project.entries.items()))
    Image.new("RGB", (64, 48), "white").save(images / entry.file)
    with pytest.raises(UserError, match="is another image than when it joined"):
        project.image_file(id)


def test_names_that_lead_out_of_the_folder_are_refused(project):
    path = project.folder / annotation.PROJECT
    content = json.loads(path.read_text())
    content["entries"][0]["file"] = "../project/project.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="is damaged: it has a malformed image"):
        open_project(project.folder)
    with pytest.raises(UserError, match="no such image in this project"):
        project.read("../../etc/passwd")


def test_damaged_annotations_are_one_line(project):
    id = next(iter(project.entries))
    project.save(id, 0, [Draft("apple", square(3, 4), "click")], False, "anna")
    (project.folder / annotation.ANNOTATIONS / f"{id}.json").write_text('{"revision": 1')
    with pytest.raises(UserError, match=r"is damaged: .*; remove it to annotate"):
        project.read(id)


def write_scenes(folder: Path, seeds):
    folder.mkdir()
    scenes = [make_scene(np.random.default_rng(seed)) for seed in seeds]
    for number, scene in enumerate(scenes):
        (folder / f"{number:02}.png").write_bytes(scene.png())
    return scenes


def test_done_images_become_samples_that_pass_the_check_and_coco(tmp_path):
    scenes = write_scenes(tmp_path / "images", range(4))
    project, _ = open_project(tmp_path / "project", tmp_path / "images")
    with pytest.raises(UserError, match=r"no image of .* is done; annotate some first"):
        list(read(project.folder, "annotation"))
    for number, (id, scene) in enumerate(zip(project.entries, scenes, strict=True)):
        drafts = [Draft(shape.colour, encode(shape.mask), "click") for shape in scene.shapes]
        project.save(id, 0, drafts, number < 3, "anna")
    card = prepare(str(project.folder), "annotation", tmp_path / "data", options={"val": "0"})
    assert card.samples == sum(len({shape.colour for shape in scene.shapes}) for scene in scenes[:3])
    report = check(tmp_path / "data")
    assert report.ok and report.images == 3
    assert max(report.objects) == max(
        sum(other.colour == shape.colour for other in scene.shapes) for scene in scenes[:3] for shape in scene.shapes
    )
    assert export(tmp_path / "data", "coco", tmp_path / "coco").samples == card.samples


def test_everything_mode_fills_a_project_once(tmp_path):
    scenes = write_scenes(tmp_path / "images", (1, 2))
    project, _ = open_project(tmp_path / "project", tmp_path / "images")
    with pytest.raises(UserError, match="the stage manual takes no masks"):
        prefill(project, None)
    semi, _ = open_project(tmp_path / "project", stage="semi")
    segmenter = load_segmenter(segmenter_path())
    ids = list(semi.entries)
    semi.save(ids[0], 0, [Draft("apple", encode(scenes[0].shapes[0].mask), "click")], False, "anna")
    filled = prefill(semi, segmenter, 0.85, PRESETS["scenes"])
    assert (filled.images, filled.passed_over) == (1, 1)
    found = semi.read(ids[1])
    assert not found.done and {each.how for each in found.instances} == {"everything"}
    best = [max(mask_iou(shape.mask, decode(each.rle)) for each in found.instances) for shape in scenes[1].shapes]
    assert max(best) > 0.8  # those of which the model is not sure are left to annotators
    assert semi.next_image("anna") is not None  # the machine holds no image
    assert prefill(semi, segmenter).images == 0
    with pytest.raises(UserError, match=r"nothing of .*its instances have no label"):
        auto, _ = open_project(tmp_path / "project", stage="auto")
        auto.save(ids[1], 1, [Draft("", each.rle, "automatic") for each in found.instances], True, "anna")
        prepare(str(auto.folder), "annotation", tmp_path / "data", options={"val": "0"})
    prepare(str(auto.folder), "annotation", tmp_path / "named", options={"val": "0", "label": "shape"})
    [sample] = from_parquet(tmp_path / "named")
    assert sample.question == "shape" and len(sample.objects) == len(found.instances)
