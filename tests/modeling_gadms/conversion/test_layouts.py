"""The table of layouts in docs/guides/convert.md: what the command says of each, and that it computes the same."""

import html
import random
from pathlib import Path

import ftfy
import numpy as np
import pytest
import regex
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPTokenizer

from dataset_scripts.drawn.persons.attributes import sample_person, sample_view
from dataset_scripts.drawn.persons.scene import draw_image
from modeling_gadms import GADMSProcessor
from modeling_gadms.conversion import tokenizer as conversion_tokenizer
from modeling_gadms.conversion.converter import convert
from modeling_gadms.conversion.openai_export import export_checkpoint
from modeling_gadms.conversion.openai_layout import EMBEDDING_PARTS, find_parts
from modeling_gadms.conversion.reports import by_module
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.explain.caption_tokens import explain_caption
from tests.command_line import refusal, run
from tests.modeling_gadms.conversion.checkpoint_layouts import LAYOUTS, Saved, write
from tests.modeling_gadms.conversion.openai_clip import captions_of, images_of
from tests.modeling_gadms.conversion.test_tokenizer import merges_of, split_by_merges


GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "convert.md"


def documented_rows() -> list[tuple[str, str, str, str]]:
    """Layout, exit code, report and difference of each row."""
    table = GUIDE.read_text(encoding="utf-8").partition("| layout | exit code |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]
    return [(layout, code, report, difference) for layout, code, report, difference in rows]


@torch.inference_mode()
def difference(folder: Path, saved: Saved) -> float:
    """The largest difference of any number of an embedding."""
    model, _ = load_model_and_processor(folder)
    clip = saved.clip
    assert model.config.image_size == clip.image_size
    pairs = [
        (model.get_image_features(i[None]).pooler_output[0], clip.visual(i)[0]) for i in images_of(clip.image_size)
    ]
    for ids in captions_of(len(clip.token_embedding.weight)):
        pairs.append((model.get_text_features(ids[None]).pooler_output[0], clip.embed_text(ids)))
    return max((ours - theirs).abs().max().item() for ours, theirs in pairs)


def test_the_guide_has_each_layout():
    assert [row[0] for row in documented_rows()] == list(LAYOUTS)


@pytest.mark.parametrize("row", documented_rows(), ids=lambda row: row[0])
def test_a_layout_is_converted_exactly_or_refused_as_the_guide_says(tmp_path, tokenizer_folder, vocab_size, row):
    layout, code, says, differs = row
    saved = LAYOUTS[layout](vocab_size)
    path = write(saved, tmp_path)
    result = run("convert", path, tmp_path / "ours", "--tokenizer", tokenizer_folder, *saved.options)
    assert str(result.exit_code) == code, result.output
    assert says.strip("`") in result.output
    assert len(result.output.splitlines()) <= 31 and max(map(len, result.output.splitlines())) < 800
    assert ("Now try: gadms index" in result.output) == (code == "0")
    if code == "0":
        assert differs == "below 1e-5" and difference(tmp_path / "ours", saved) < 1e-5
    else:
        assert differs == "-" and not (tmp_path / "ours").exists()


# What is lost.


def test_only_force_converts_without_parts_that_embeddings_need(tmp_path, tokenizer_folder, vocab_size):
    path = write(LAYOUTS["UP-Person: LoRA and prefixes"](vocab_size), tmp_path)
    error = refusal("convert", path, tmp_path / "ours", "--tokenizer", tokenizer_folder)
    assert "no place for 10 of its tensors" in error and "LORA_learner.lora_text.*.lora_A (9)" in error
    forced = run("convert", path, tmp_path / "ours", "--tokenizer", tokenizer_folder, "--force")
    assert forced.exit_code == 0 and "Now try" not in forced.output
    assert forced.stdout.splitlines()[-1].startswith("embeddings or ranking are not those of the source, which needs")


def test_thousands_of_ignored_tensors_are_a_few_lines(tmp_path, tokenizer_folder, vocab_size):
    saved = LAYOUTS["CSKT: prompts"](vocab_size)
    names = [f"adapter_{kind}.{layer}.{part}" for kind in range(40) for layer in range(12) for part in "abc"]
    saved.content["model"] |= {name: torch.ones(1) for name in [*names, "x" * 9_000]}
    report = convert(write(saved, tmp_path), tmp_path / "ours", tokenizer=tokenizer_folder, force=True)
    lines = report.to_text().splitlines()
    assert len(report.lost) == 40 * 12 * 3 + 3 and len(lines) <= 30 and max(map(len, lines)) < 800
    assert "more modules" in lines[-1]


def test_a_head_is_used_in_training_only_where_no_encoder_is(vocab_size):
    names = [*LAYOUTS["IRRA, GA-DMS, MLLM4Text-ReID, FMFA"](vocab_size).content["model"], "x.cross_attn.a"]
    parts = find_parts(names)
    assert parts.reason_ignored("cross_attn_itm.a") not in EMBEDDING_PARTS
    for name in ("base_model.cross_attn_itm.a", "base_model.visual.decoder.a", "x.cross_attn.a", "projector.weight"):
        assert parts.reason_ignored(name) in EMBEDDING_PARTS


def test_modules_are_counted_with_their_layers_as_one():
    names = [f"blocks.{layer}.mlp.{kind}" for layer in (0, 1, 10) for kind in ("weight", "bias")]
    assert by_module([*names, "7", "head.0"]) == "blocks.*.mlp (6), 7, head"
    assert by_module(f"m{number}.a" for number in range(9)) == "m0, m1, m2, m3, m4, m5, and 3 in 3 more modules"


# What is given.


def test_options_say_what_they_may_be(tmp_path, tokenizer_folder, vocab_size):
    saved = LAYOUTS["open_clip, of another width, GELU"](vocab_size)
    path = write(saved, tmp_path)
    common = ("convert", path, tmp_path / "ours", "--tokenizer", tokenizer_folder, "--activation", "gelu")
    for heads in ("2", "2x1", "2,1,1", ""):
        assert f"--heads {heads!r} must be IMAGES,TEXT" in refusal(*common, f"--heads={heads}")
    assert "heads = 3 of its image encoder must divide its width, 160" in refusal(*common, "--heads", "3,1")
    error = refusal(*common, "--heads", "2,1", "--mask-token", "7")
    assert f"mask_token = 7 must be {vocab_size - 3}, to replace" in error and f"or {vocab_size}, to append" in error
    with pytest.raises(ValueError, match="activation = 'relu' must be one of quick_gelu, gelu"):
        convert(path, tmp_path / "ours", activation="relu")


def test_the_mask_token_of_encoders_alone_is_assumed_aloud_or_given(tmp_path, tokenizer_folder, vocab_size):
    path = write(LAYOUTS["DFLSG, Word4Per: encoders alone"](vocab_size), tmp_path)
    report = convert(path, tmp_path / "assumed", tokenizer=tokenizer_folder)
    assert report.config.mask_token_id == vocab_size - 3
    assert f"assumed, because there is no token head (--mask-token {vocab_size} appends one)" in report.to_text()
    report = convert(path, tmp_path / "given", tokenizer=tokenizer_folder, mask_token=vocab_size)
    assert report.config.mask_token_id == vocab_size and "assumed, because" not in report.to_text()


def test_what_a_folder_contains_is_not_given(tmp_path, model_folder):
    for name, value in (("activation", "gelu"), ("heads", (1, 1)), ("mask_token", 3)):
        with pytest.raises(ValueError, match=r"already|is only used for weight files"):
            convert(model_folder, tmp_path / "ours", **{name: value})


def test_a_run_folder_of_several_weight_files_asks_for_one(tmp_path):
    for name in ("epoch1.pth", "epoch2.pth"):
        (tmp_path / name).write_bytes(b"x")
    assert "contains 2 weight files (epoch1.pth, epoch2.pth); give one of them" in refusal(
        "convert", tmp_path, tmp_path / "ours"
    )


# Preprocessing.


def drawn_crops(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(3)
    crops = []
    for _ in range(count):
        person = sample_person(rng, rng, changes=2)
        size = (int(rng.integers(40, 300)), int(rng.integers(20, 120)))
        crops.append(draw_image(person, sample_view(rng), size, rng))
    return crops


CLIP_STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("layout", "resampling", "statistics"),
    [
        ("IRRA, GA-DMS, MLLM4Text-ReID, FMFA", Image.Resampling.BILINEAR, CLIP_STATISTICS),
        ("TBPS-CLIP", Image.Resampling.BICUBIC, IMAGENET_STATISTICS),
        ("Long-CLIP", Image.Resampling.BICUBIC, CLIP_STATISTICS),
    ],
)
def test_images_are_prepared_as_by_the_source(tmp_path, tokenizer_folder, vocab_size, layout, resampling, statistics):
    """What torchvision's Resize, ToTensor and Normalize compute, as Pillow does it, to a tenth of a grey level."""
    saved = LAYOUTS[layout](vocab_size)
    size = {} if "IRRA" in layout or "TBPS" in layout else {"image_size": (32, 32)}
    report = convert(write(saved, tmp_path), tmp_path / "ours", tokenizer=tokenizer_folder, **size)
    assert f"images: resized ({resampling.name.lower()}) and normalised as the" in report.to_text()
    processor = GADMSProcessor.from_pretrained(tmp_path / "ours")
    height, width = processor.image_size
    mean, std = (torch.tensor(values)[:, None, None] for values in statistics)
    for crop in drawn_crops(30):
        pixels = processor(images=crop)["pixel_values"][0] * std + mean
        expected = np.asarray(crop.resize((width, height), resampling)).transpose(2, 0, 1)
        np.testing.assert_allclose(pixels * 255, expected, atol=0.1)


ODD_PIECES = [
    "the man's shirt", "a woman\u2019s bag", "\u201cred\u201d coat", "caf\u00e9", "cafe\u0301", "na\u00c3\u00afve",
    "blue &amp; white", "&lt;jeans&gt;", "&amp;quot;bag&amp;quot;", "size\u00a0XL", "\uff32\uff25\uff24 hat",
    "\ufb01tted", "wide\u2014leg", "don\u00e2\u20ac\u2122t", "tab\there", "new\nline", "line\r\nbreak", "UPPER Case",
    "\u0130stanbul", "\u039f\u0394\u039f\u03a3", "stra\u00dfe", "\U0001f45c", "\u7ea2\u8272", "12 cm", "\u00bd sleeve",
    "a\u200bb", "\ufeffman", "x\x1b[31mred\x1b[0m", "it\u00b4s", "&#39;quoted&#39;", "&nbsp;", "woman&#x2019;s",
    "100%", "#tag", "a_b", "...", "they'll", "I'VE",
    "<b>red</b> &amp;amp; blue",  # ftfy leaves entities beside tags
]  # fmt: skip


def odd_captions() -> list[str]:
    draw = random.Random(0)
    return [*ODD_PIECES, *(" ".join(draw.sample(ODD_PIECES, draw.randint(1, 4))) for _ in range(200))]


def test_odd_captions_are_tokenized_as_by_the_source(tmp_path, tokenizer_folder, vocab_size):
    """By the tokenizer of OpenAI's code, written with its own libraries; the mask has the id of the last merge."""
    original = CLIPTokenizer.from_pretrained(tokenizer_folder)
    merges, vocabulary = merges_of(original)[:-1], original.get_vocab()
    pattern = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE)
    bytes_shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in bytes_shown]
    character = {byte: chr(byte) for byte in bytes_shown} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}

    def source_ids(caption: str) -> list[int]:
        cleaned = html.unescape(html.unescape(ftfy.fix_text(caption))).strip()
        ids = [vocab_size - 2]
        for word in pattern.findall(regex.sub(r"\s+", " ", cleaned).strip().lower()):
            shown = "".join(character[byte] for byte in word.encode("utf-8"))
            ids += [vocabulary[piece] for piece in split_by_merges(shown, merges)]
        ids.append(vocab_size - 1)
        return ids if len(ids) <= 24 else [*ids[:23], vocab_size - 1]

    report = convert(
        write(LAYOUTS["IRRA, GA-DMS, MLLM4Text-ReID, FMFA"](vocab_size), tmp_path),
        tmp_path / "ours",
        tokenizer=tokenizer_folder,
    )
    assert "captions: cleaned (ftfy, HTML entities)" in report.to_text()
    _, processor = load_model_and_processor(tmp_path / "ours")
    uncleaned = 0
    for caption in odd_captions():
        expected = source_ids(caption)
        assert processor(text=caption)["input_ids"][0].tolist() == expected, caption
        assert processor.tokenize(caption, truncation=True)["input_ids"] == expected, caption
        uncleaned += processor.tokenizer(caption, truncation=True)["input_ids"] != expected
    assert uncleaned > 40  # without cleaning, which the test would not notice otherwise


def test_an_explanation_shows_the_caption_that_was_read(tmp_path, tokenizer_folder, vocab_size):
    convert(
        write(LAYOUTS["IRRA, GA-DMS, MLLM4Text-ReID, FMFA"](vocab_size), tmp_path),
        tmp_path / "ours",
        tokenizer=tokenizer_folder,
    )
    model, processor = load_model_and_processor(tmp_path / "ours")
    explanation = explain_caption(model, processor, Image.new("RGB", (16, 48)), "A man&amp;s   coat \u201cred\u201d")
    assert "".join(token.text for token in explanation.tokens) == 'aman&scoat"red"'


def test_plain_captions_need_no_ftfy_and_others_say_so(tmp_path, tokenizer_folder, monkeypatch):
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    processor = GADMSProcessor.from_tokenizer(tokenizer, image_size=(32, 16), clean_text=True)
    monkeypatch.setitem(__import__("sys").modules, "ftfy", None)
    assert processor.clean("A man's\tCoat,  100%\n") == "a man's coat, 100%"
    for caption in ("caf\u00e9", "a &amp; b", "a\x1bb"):
        with pytest.raises(ImportError, match="pip install ftfy"):
            processor(text=caption)


# Vocabulary and export.


def test_clips_vocabulary_is_that_of_an_installed_open_clip(tmp_path, monkeypatch):
    """A package with a file of as many merges, in the form of the original."""
    import gzip

    (tmp_path / "open_clip").mkdir()
    (tmp_path / "open_clip" / "__init__.py").write_text("raise RuntimeError('not imported')")
    letters = [chr(number) for number in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
    merges = [f"{a} {b}" for a in letters for b in letters][: 49_408 - 512 - 2]
    with gzip.open(tmp_path / "open_clip" / "bpe_simple_vocab_16e6.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(["#version: 0.2", *merges, "not used"]) + "\n")

    def offline(name: str, **_):
        raise OSError("no network")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", offline)
    with pytest.raises(OSError, match="cannot be loaded, and open_clip_torch, which contains its vocabulary, is not"):
        conversion_tokenizer.openai_tokenizer()
    monkeypatch.syspath_prepend(tmp_path)
    tokenizer, note = conversion_tokenizer.openai_tokenizer()
    assert note == ["captions: the vocabulary is that of the installed open_clip_torch"]
    assert (len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id) == (49_408, 49_406, 49_407)
    assert tokenizer('!"')["input_ids"] == [49_406, tokenizer.convert_tokens_to_ids("!"), 256 + 1, 49_407]
    assert tokenizer.convert_ids_to_tokens([0, 255, 256, 512, 49_405]) == [
        "!", "\u0143", "!</w>", "!!", merges[-1].replace(" ", ""),
    ]  # fmt: skip


def test_an_export_of_a_rectangle_warns_of_openais_loader(tmp_path, tokenizer_folder, vocab_size):
    path = write(LAYOUTS["OpenAI's CLIP"](vocab_size), tmp_path)
    for size, warns in (((48, 16), True), ((32, 32), False)):
        folder = tmp_path / str(size)
        convert(path, folder, image_size=size, tokenizer=tokenizer_folder)
        report = export_checkpoint(folder, tmp_path / f"{size}.pth", layout="openai").to_text()
        assert ("48x16 (height x width); OpenAI's own loader takes square images alone" in report) == warns
        assert "activation: quick_gelu" in report
