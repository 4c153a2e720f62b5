"""What a checkpoint's small files say, and what is refused before any weight is loaded."""

import json
import shutil

import pytest

from segzero.errors import UserError
from segzero.frames import FAMILY_FRAMES, native, relative, stretch
from segzero.policy.checkpoint import CARD, RELEASED, read_checkpoint, released, shown_name, write_card

QWEN25_CONFIG = {"model_type": "qwen2_5_vl", "max_position_embeddings": 128000}  # the released ones keep it at the top
QWEN25_PROCESSOR = {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "merge_size": 2}


@pytest.fixture
def folder(tmp_path):
    """A Qwen2.5-VL checkpoint's small files as its makers wrote them."""
    (tmp_path / "config.json").write_text(json.dumps(QWEN25_CONFIG))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(QWEN25_PROCESSOR))
    return tmp_path


@pytest.mark.parametrize("family", list(FAMILY_FRAMES))
def test_saved_checkpoints_say_what_they_are(checkpoints, family):
    checkpoint = read_checkpoint(checkpoints[family])
    factor = 32 if family == "qwen3_vl" else 28
    assert (checkpoint.family, checkpoint.factor, checkpoint.max_length) == (family, factor, 4096)
    assert checkpoint.frame.kind == FAMILY_FRAMES[family]
    assert (checkpoint.frame.min_pixels, checkpoint.frame.max_pixels) == (56 * 56, 448 * 448)
    assert checkpoint.prompt == "multi"


def test_older_files_are_read_too(folder):
    checkpoint = read_checkpoint(folder)
    assert checkpoint.frame == native(3136, 12845056, 28)
    assert checkpoint.max_length == 128000
    assert checkpoint.image_tokens((840, 840)) == 900


def test_a_nested_image_processor_goes_before_the_older_file(folder):
    nested = {"size": {"shortest_edge": 4096, "longest_edge": 8192}, "patch_size": 16, "merge_size": 2}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": nested}))
    assert read_checkpoint(folder).frame == native(4096, 8192, 32)


def test_a_card_comes_back_as_it_was_written(folder):
    for prompt, frame in [("seg_zero", stretch(840)), ("multi", native(3136, 602112)), ("multi", relative(1000))]:
        write_card(folder, prompt, frame)
        checkpoint = read_checkpoint(folder)
        assert (checkpoint.prompt, str(checkpoint.frame)) == (prompt, str(frame))
    assert not list(folder.glob("*.tmp"))


def test_arguments_go_before_the_card(folder):
    write_card(folder, "seg_zero", stretch(840))
    checkpoint = read_checkpoint(folder, frame="native", prompt="vision_reasoner")
    assert (checkpoint.prompt, checkpoint.frame) == ("vision_reasoner", native(3136, 12845056, 28))


@pytest.mark.parametrize("name", RELEASED)
@pytest.mark.parametrize("form", ["Ricky06662/{}", "{}", "a/b/{}/", "hub/models--Ricky06662--{}/snapshots/0af3"])
def test_released_checkpoints_are_known_by_name(form, name):
    assert released(form.format(name)) == (RELEASED[name], "stretch(840)")


@pytest.mark.parametrize("path", ["Qwen/Qwen2.5-VL-7B-Instruct", "VisionReasoner-7B/step_10", "my-Seg-Zero-7B"])
def test_other_names_say_nothing(path):
    assert released(path) == (None, None)


def test_a_model_in_the_hub_cache_needs_no_network(folder, tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("hub")
    model = cache / "models--Ricky06662--VisionReasoner-7B"
    shutil.copytree(folder, model / "snapshots" / "0af3")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0af3")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    checkpoint = read_checkpoint("Ricky06662/VisionReasoner-7B")
    assert (checkpoint.prompt, checkpoint.frame) == ("vision_reasoner", stretch(840))


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("no/such", "hf download"),
        ("no/such/folder/at/all", "check it"),
        ("not a name", "check it"),
    ],
)
def test_a_missing_checkpoint_is_one_line(path, hint):
    with pytest.raises(UserError, match=hint) as caught:
        read_checkpoint(path)
    assert path in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", '{"model_type": "llama"}', "'llama' model; a policy is one of qwen2_vl"),
        ("config.json", "{", "can't be read"),
        ("config.json", "[]", "should hold a JSON object"),
        ("config.json", None, "no config.json"),
        ("preprocessor_config.json", None, "no preprocessor_config.json"),
        ("segzero.json", '{"frame": 840}', "must be strings"),
        ("segzero.json", '{"frame": "square"}', "unknown frame 'square'"),
        ("segzero.json", '{"prompt": "mutli"}', "did you mean 'multi'"),
        ("config.json", "[" * 100_000, "can't be read"),
        ("config.json", '{"model_type": "qwen2_5_vl", "a": ' + "1" * 5000 + "}", "can't be read"),
        ("config.json", '{"model_type": ["qwen2_5_vl"]}', "a policy is one of"),
        ("config.json", " " * ((16 << 20) + 1), "has more than 16 MiB"),
        ("config.json", '{"model_type": "qwen2_5_vl", "text_config": 5}', "text_config should hold an object"),
        ("config.json", '{"model_type": "qwen2_5_vl", "max_position_embeddings": "x"}', "it should be a whole number"),
        ("preprocessor_config.json", '{"size": [1]}', "size should hold objects"),
        ("preprocessor_config.json", '{"patch_size": 1e400}', "patch_size is inf; it should be a whole number"),
        ("preprocessor_config.json", '{"max_pixels": -4}', "max_pixels is -4; it should be a whole number above 0"),
        ("processor_config.json", '{"image_processor": 7}', "image_processor and size should hold objects"),
    ],
)
def test_unusable_files_are_named(folder, name, content, message):
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_checkpoint(folder)
    assert str(folder) in str(caught.value) or name == "segzero.json"
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


SHAPES = [
    ({"num_hidden_layers": 10_000_000}, "num_hidden_layers is 1e[+]07, more than the 1000 that a model can have"),
    ({"vision_config": {"depth": 10_000_000}}, "depth is 1e[+]07"),
    ({"vision_config": {"deepstack_visual_indexes": [5] * 2000}}, "deepstack_visual_indexes has 2000 entries"),
    ({"text_config": {"vocab_size": 10**12}}, "vocab_size is 1e[+]12"),
    ({"text_config": {"hidden_size": 10**30}}, "hidden_size is 1e[+]30"),
    ({"num_hidden_layers": 80, "vocab_size": 152_064, "hidden_size": 8192, "rope_theta": 5e6}, None),
]


@pytest.mark.parametrize(("numbers", "problem"), SHAPES)
def test_a_shape_that_no_model_has_is_refused_before_it_is_built(folder, numbers, problem):
    (folder / "config.json").write_text(json.dumps(QWEN25_CONFIG | numbers))
    if problem is None:
        read_checkpoint(folder)
        return
    with pytest.raises(UserError, match=problem):
        read_checkpoint(folder)


TOO_MUCH = [stretch(841), stretch(28), stretch(4200), native(3000), native(3136, 12845057), native(factor=32)]


@pytest.mark.parametrize("frame", TOO_MUCH, ids=str)
def test_a_frame_the_processor_would_resize_is_refused(folder, frame):
    with pytest.raises(UserError, match="multiples of 28, 3136 to 12845056 pixels"):
        read_checkpoint(folder, frame=frame)


def test_a_folder_is_called_what_its_card_says_and_never_by_where_it_lies(tmp_path):
    folder = tmp_path / "merged"
    assert shown_name(str(folder)) == "merged"
    write_card(folder.parent, "multi", stretch(840))
    assert shown_name(str(tmp_path)) == tmp_path.name
    folder.mkdir()
    (folder / CARD).write_text('{"name": "my policy"}')
    assert shown_name(str(folder)) == "my policy"
    (folder / CARD).write_text('{"name": 7}')
    assert shown_name(str(folder)) == "merged"
    assert shown_name("owner/model") == "owner/model" and shown_name("sam2.1_hiera_l.pt") == "sam2.1_hiera_l.pt"
