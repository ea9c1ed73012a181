"""The configuration: published numbers as defaults, round trips, and errors that name the value at fault."""

import copy

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, CLIPTextConfig, CLIPVisionConfig

from modeling_gadms import GADMSConfig


def test_defaults_are_the_papers_numbers():
    """Where the paper is silent, the released configuration's."""
    config = GADMSConfig()
    published = {
        "temperature": 0.02,  # tau, fixed
        "learn_temperature": False,
        "token_score": "gass",
        "score_layers": 8,  # L, of 12
        "score_scales": (1, 2),
        "noise_mask_rate": 0.2,  # alpha_n
        "informative_mask_rate": 0.3,  # alpha_i
        "mask_sharpness": 20,  # lambda
        "noise_mask_threshold": 0.9,  # gamma_n
        "informative_mask_threshold": 0.1,  # gamma_i
        "alignment": "sdm",
        "sdm_epsilon": 1e-8,
        "mtp_weight": 0.4,  # beta
        "noise_masking": True,
        "masked_token_prediction": True,
        "fusion_num_hidden_layers": 4,
        "projection_dim": 512,
        "mask_token_id": 49408,
        "num_identities": 0,
    }
    assert {name: getattr(config, name) for name in published} == published


def test_default_encoders_are_clip_vit_b_16_on_384_by_128():
    text, vision = GADMSConfig().text_config, GADMSConfig().vision_config
    assert (vision.image_size, vision.patch_size) == ((384, 128), 16)
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (768, 12, 12)
    assert vision.intermediate_size == 3072
    assert (text.hidden_size, text.num_hidden_layers, text.num_attention_heads) == (512, 12, 8)
    assert (text.intermediate_size, text.max_position_embeddings, text.vocab_size) == (2048, 77, 49409)
    assert (text.bos_token_id, text.eos_token_id) == (49406, 49407)
    assert text.hidden_act == vision.hidden_act == "quick_gelu"


def test_every_field_is_documented_with_its_default():
    """Prose drifts; the sentence `defaults to X` is read and compared."""
    config = GADMSConfig()
    documented = {}
    for line in GADMSConfig.__doc__.splitlines():
        name, separator, default = line.strip().partition(", defaults to ")
        if separator:
            documented[name.split()[0]] = default.removesuffix(":").removesuffix(")").strip("`").strip('"')
    undocumented_default = {"text_config", "vision_config", "tie_word_embeddings"}
    declared = set(GADMSConfig.__annotations__) - {"model_type", "sub_configs_defaults"}
    assert set(documented) == declared - undocumented_default
    for name, default in documented.items():
        value = getattr(config, name)
        assert default == str(value) or float(default) == value, name


def test_partial_encoder_settings_change_our_defaults_and_not_clips():
    config = GADMSConfig(text_config={"num_hidden_layers": 9}, vision_config={"hidden_size": 384})
    assert config.text_config.vocab_size == 49409 and config.text_config.num_hidden_layers == 9
    assert config.vision_config.image_size == (384, 128) and config.vision_config.patch_size == 16


def test_encoder_configurations_are_taken_as_they_are():
    text, vision = CLIPTextConfig(vocab_size=49409), CLIPVisionConfig(image_size=64, patch_size=16)
    config = GADMSConfig(text_config=text, vision_config=vision)
    assert config.text_config is text and config.vision_config.image_size == (64, 64)


@pytest.mark.parametrize("size", [(64, 32), [64, 32]])
def test_image_size_is_height_and_width(size):
    assert GADMSConfig(vision_config={"image_size": size}).vision_config.image_size == (64, 32)


# Round trips.


def everything_changed() -> GADMSConfig:
    return GADMSConfig(
        text_config={
            "vocab_size": 100,
            "bos_token_id": 97,
            "eos_token_id": 98,
            "hidden_size": 64,
            "num_attention_heads": 4,
        },
        vision_config={"image_size": (64, 32), "hidden_size": 48, "num_attention_heads": 4},
        projection_dim=32,
        image_pooling="patches",
        mask_token_id=99,
        token_score="cosine",
        score_layers=3,
        score_scales=(1, 3),
        noise_masking=False,
        masked_token_prediction=False,
        noise_mask_rate=0.1,
        informative_mask_rate=0.15,
        mask_sharpness=10.0,
        noise_mask_threshold=0.8,
        informative_mask_threshold=0.2,
        alignment="itc",
        temperature=0.07,
        learn_temperature=True,
        sdm_epsilon=1e-6,
        mtp_weight=0.3,
        identity_weight=0.5,
        num_identities=11,
        fusion_num_hidden_layers=2,
        fusion_num_attention_heads=4,
        fusion_intermediate_size=64,
        tie_word_embeddings=True,
        initializer_factor=0.5,
    )


@pytest.mark.parametrize("make", [GADMSConfig, everything_changed])
def test_a_saved_configuration_loads_equal(tmp_path, make):
    config = make()
    config.save_pretrained(tmp_path)
    for loaded in (
        GADMSConfig.from_pretrained(tmp_path),
        AutoConfig.from_pretrained(tmp_path),
        GADMSConfig(**config.to_dict()),
        GADMSConfig.from_dict(config.to_dict()),
        copy.deepcopy(config),
    ):
        assert type(loaded) is GADMSConfig
        assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict()
        assert isinstance(loaded.text_config, CLIPTextConfig) and isinstance(loaded.vision_config, CLIPVisionConfig)
        assert isinstance(loaded.score_scales, tuple) and isinstance(loaded.vision_config.image_size, tuple)


def test_the_round_trip_covers_every_field():
    changed, default = everything_changed(), GADMSConfig()
    assert not [
        name
        for name in GADMSConfig.__annotations__
        if name not in ("model_type", "sub_configs_defaults") and getattr(changed, name) == getattr(default, name)
    ]


def test_two_configurations_share_nothing():
    first, second = GADMSConfig(), GADMSConfig()
    first.text_config.vocab_size = 1
    assert second.text_config.vocab_size == 49409


def test_saved_values_can_be_replaced_on_loading(tmp_path):
    everything_changed().save_pretrained(tmp_path)
    config, unused = GADMSConfig.from_pretrained(
        tmp_path,
        temperature=0.5,
        score_scales=[2, 3],
        text_config={"attention_dropout": 0.1},
        subfolder_like="kept",
        return_unused_kwargs=True,
    )
    assert config.temperature == 0.5 and config.score_scales == (2, 3) and config.mtp_weight == 0.3
    assert config.text_config.attention_dropout == 0.1 and config.text_config.hidden_size == 64
    assert unused == {"subfolder_like": "kept"}


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"temperature": -0.1}, "temperature = -0.1"),
        ({"score_layers": 99}, "score_layers = 99"),
        ({"vision_config": {"image_size": (100, 128)}}, r"\(100, 128\)"),
        ({"text_config": {"attention_dropot": 0.1}}, "did you mean `attention_dropout`"),
    ],
)
def test_replaced_values_are_checked_as_the_constructors(tmp_path, replaced, message):
    GADMSConfig().save_pretrained(tmp_path)
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        GADMSConfig.from_pretrained(tmp_path, **replaced)


# Errors.


@pytest.mark.parametrize(
    ("fields", "key", "place", "meant"),
    [
        ({"temprature": 0.1}, "temprature", "GADMSConfig;", "temperature"),
        ({"noise_masks_rate": 0.1}, "noise_masks_rate", "GADMSConfig;", "noise_mask_rate"),
        ({"text_config": {"hiden_size": 8}}, "hiden_size", "GADMSConfig.text_config", "hidden_size"),
        ({"vision_config": {"imagesize": 8}}, "imagesize", "GADMSConfig.vision_config", "image_size"),
    ],
)
def test_a_misspelt_key_names_the_one_that_was_meant(fields, key, place, meant):
    with pytest.raises(ValueError, match=f"unknown key `{key}` in {place}.*did you mean `{meant}`"):
        GADMSConfig(**fields)


def test_a_key_like_no_other_lists_those_that_exist():
    with pytest.raises(ValueError, match="unknown key `zzzz` in GADMSConfig; known keys: .*alignment.*temperature"):
        GADMSConfig(zzzz=1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"token_score": "gas"}, "token_score = 'gas' must be one of gass, cosine, random, none"),
        ({"alignment": "clip"}, "alignment = 'clip' must be one of sdm, itc"),
        ({"score_layers": 0}, "score_layers = 0 must lie between 1 and the 12 text layers"),
        ({"score_layers": 13}, "score_layers = 13"),
        ({"score_scales": ()}, r"score_scales = \(\)"),
        ({"score_scales": (1, 0)}, r"score_scales = \(1, 0\)"),
        ({"noise_mask_rate": 1.1}, "noise_mask_rate = 1.1 must lie between 0 and 1"),
        ({"informative_mask_rate": -0.1}, "informative_mask_rate = -0.1"),
        ({"noise_mask_threshold": 2}, "noise_mask_threshold = 2"),
        ({"informative_mask_threshold": -1}, "informative_mask_threshold = -1"),
        ({"mask_sharpness": 0}, "mask_sharpness = 0 must be positive"),
        ({"temperature": 0.0}, "temperature = 0.0 must be positive"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"sdm_epsilon": 0.0}, "sdm_epsilon = 0.0"),
        ({"mtp_weight": -1}, "mtp_weight = -1 must not be negative"),
        ({"mtp_weight": float("nan")}, "mtp_weight = nan"),
        ({"identity_weight": -0.5}, "identity_weight = -0.5"),
        ({"num_identities": -1}, "num_identities = -1"),
        ({"fusion_num_hidden_layers": -1}, "fusion_num_hidden_layers = -1"),
        ({"projection_dim": 0}, "projection_dim = 0 must be at least 1"),
        ({"projection_dim": 100}, "projection_dim = 100 must be a multiple of fusion_num_attention_heads = 8"),
        ({"fusion_num_attention_heads": 0}, "fusion_num_attention_heads = 0 must be at least 1"),
        ({"fusion_intermediate_size": 0}, "fusion_intermediate_size = 0"),
        ({"mask_token_id": 49409}, "mask_token_id = 49409 is outside the vocabulary of 49409"),
        ({"mask_token_id": -1}, "mask_token_id = -1"),
        ({"mask_token_id": 49407}, "mask_token_id = 49407 is also text_config.eos_token_id"),
        ({"text_config": {"vocab_size": 49408}}, "mask_token_id = 49408 is outside"),
        ({"text_config": {"eos_token_id": 60000}}, "eos_token_id = 60000"),
        ({"text_config": {"eos_token_id": [49407]}}, "must be one id"),
        ({"vision_config": {"image_size": (100, 128)}}, r"\(100, 128\) must be a multiple of patch_size = 16"),
        ({"vision_config": {"image_size": (384, 100)}}, r"\(384, 100\) must be a multiple"),
        ({"vision_config": {"image_size": (0, 128)}}, r"\(0, 128\) must be positive"),
        ({"vision_config": {"image_size": 100}}, r"\(100, 100\)"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        GADMSConfig(**fields)


@pytest.mark.parametrize("size", [None, [], [64], [64, 32, 3]])
def test_an_image_size_that_is_no_pair_is_refused(size):
    with pytest.raises(ValueError, match=r"vision_config.image_size = .* must be \(height, width\)"):
        GADMSConfig(vision_config={"image_size": size})


def test_the_legacy_eos_of_clip_is_refused_with_the_reason():
    with pytest.raises(StrictDataclassError, match="eos_token_id = 2 .*largest id.*49407"):
        GADMSConfig(text_config={"eos_token_id": 2})


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": "0.02"},
        {"score_layers": 1.5},
        {"score_scales": 2},
        {"noise_masking": "yes"},
        {"noise_mask_rate": True},
        {"token_score": None},
        {"vision_config": {"image_size": (384, 128, 3)}},
    ],
)
def test_a_value_of_the_wrong_type_is_refused(fields):
    name = next(iter(fields["vision_config"] if "vision_config" in fields else fields))
    with pytest.raises(StrictDataclassError, match=name):
        GADMSConfig(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"noise_mask_rate": 0, "informative_mask_rate": 1, "noise_mask_threshold": 1},
        {"score_layers": 12, "score_scales": [1]},
        {"mtp_weight": 0, "fusion_num_hidden_layers": 0},
        {"mask_token_id": 49405},
    ],
)
def test_values_at_the_border_are_taken(fields):
    GADMSConfig(**fields)
