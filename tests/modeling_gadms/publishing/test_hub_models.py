"""Models pushed with transformers or peft load without this package, at any revision, with read access."""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from transformers import CLIPConfig, CLIPModel

from modeling_gadms import GADMSModel, GADMSProcessor
from modeling_gadms.training.tokenizer import train_tokenizer
from tests.hub_client import MINE, READING
from tests.hub_server import HubServer
from tests.modeling_gadms.publishing.hub_stories import COLORS, TEXTS, embeddings
from tests.waiting import PATIENCE_SECONDS


pytestmark = pytest.mark.slow


STORIES = "tests.modeling_gadms.publishing.hub_stories"
ALONE = ("transformers", "torch", "pillow", "safetensors", "tokenizers")
"""Packages that a user of a published model needs, in addition to their dependencies."""


def closure(names: tuple[str, ...]) -> set[str]:
    """Return distributions with all of their dependencies, without extras."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:  # a dependency of another platform
            continue
        found.add(name)
        requirements = [Requirement(text) for text in requires]
        waiting += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


ONLY = """
import importlib.abc, sys
from importlib.metadata import MetadataPathFinder
from importlib.machinery import PathFinder

class Only(importlib.abc.MetaPathFinder):
    others = list(sys.meta_path)

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        standard = top in sys.stdlib_module_names or top.startswith("_sysconfigdata")
        if top not in MODULES and not standard and top != "transformers_modules":
            return None
        specs = (finder.find_spec(name, path, target) for finder in self.others)
        return next((spec for spec in specs if spec is not None), None)

    def invalidate_caches(self):
        PathFinder.invalidate_caches()

    def find_distributions(self, context):
        found = MetadataPathFinder.find_distributions(context)
        return (one for one in found if one.metadata["Name"].lower().replace("_", "-") in DISTRIBUTIONS)

sys.meta_path[:] = [Only()]
for name in ("modeling_gadms", "dataset_scripts", "accelerate", "datasets", "peft"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} is importable: this test would prove nothing")

import os
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor

def refuses(error, message, auto_class, name, **arguments):
    try:
        auto_class.from_pretrained(name, **arguments)
    except error as problem:
        assert message in str(problem), problem
    else:
        sys.exit(f"{auto_class.__name__} loaded {name} with {arguments}")
"""

UNTRUSTED = """
for auto_class in (AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor):
    refuses(ValueError, "trust_remote_code=True", auto_class, "me/evil")
    refuses(ValueError, "trust_remote_code=True", auto_class, "me/evil", trust_remote_code=False)
assert not [name for name in sys.modules if name.startswith("transformers_modules.")], "code was executed"
assert not Path(MARKER).exists(), "code was executed"
AutoModel.from_pretrained("me/evil", trust_remote_code=True)
assert Path(MARKER).exists(), "the trap does not work"
"""

EMBED = """
def embed(name, **arguments):
    model = AutoModel.from_pretrained(name, trust_remote_code=True, **arguments).eval()
    processor = AutoProcessor.from_pretrained(name, trust_remote_code=True, **arguments)
    assert type(model).__module__.startswith("transformers_modules.")
    inputs = processor(images=[Image.new("RGB", (20, 50), color) for color in COLORS], text=TEXTS)
    with torch.inference_mode():
        outputs = model(**inputs)
    return {"image": outputs.image_embeds, "text": outputs.text_embeds}

found = {"new": embed("me/model"), "v1": embed("me/model", revision="v1")}
found["commit"] = embed("me/model", revision=COMMIT)
refuses(OSError, "me/secret", AutoModel, "me/secret", trust_remote_code=True)
found["secret"] = embed("me/secret", token=MINE)
torch.save(found, RESULT)
"""


def run_alone(tmp_path: Path, hub: HubServer, program: str, **constants) -> None:
    """Run a program in a new interpreter that imports only `ALONE`, without standard input."""
    distributions = closure(ALONE)
    modules = {
        module
        for module, names in packages_distributions().items()
        if any(canonicalize_name(name) in distributions for name in names)
    }
    constants |= {"MODULES": modules, "DISTRIBUTIONS": distributions}
    lines = "".join(f"{name} = {value!r}\n" for name, value in constants.items())
    home = tmp_path / "home"
    environment = hub.environment(home) | {"HOME": str(home), "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, "-I", "-c", lines + ONLY + program],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env={"PATH": os.environ.get("PATH", ""), **environment},
    )
    assert finished.returncode == 0, finished.stderr[-3000:]


@pytest.fixture
def two_models(tmp_path, tiny_model, processor) -> tuple[Path, Path]:
    """Folders of two models with the same configuration."""
    folders = (tmp_path / "one", tmp_path / "two")
    for seed, path in enumerate(folders):
        tiny_model(seed).save_pretrained(path)
        processor.save_pretrained(path)
    return folders


def expected(folder: Path) -> dict[str, torch.Tensor]:
    model, processor = GADMSModel.from_pretrained(folder).eval(), GADMSProcessor.from_pretrained(folder)
    return {name: torch.tensor(values) for name, values in embeddings(model, processor).items()}


def same(found: dict, wanted: dict) -> bool:
    return all(torch.allclose(torch.as_tensor(found[name]), wanted[name], atol=1e-5) for name in ("image", "text"))


def test_a_published_model_loads_with_transformers_alone_at_each_of_its_versions(hub, client, two_models, tmp_path):
    one, two = two_models
    client.ask(f"{STORIES}.push_model", one, "me/model", token=MINE)
    commit = hub.repositories["model", "me/model"].branches["main"]
    client.ask("huggingface_hub.create_tag", "me/model", tag="v1", token=MINE)
    client.ask(f"{STORIES}.push_model", two, "me/model", token=MINE)
    client.ask(f"{STORIES}.push_model", two, "me/secret", token=MINE, private=True)
    run_alone(
        tmp_path,
        hub,
        EMBED,
        RESULT=str(tmp_path / "found.pt"),
        COMMIT=commit,
        MINE=READING,
        COLORS=COLORS,
        TEXTS=TEXTS,
    )
    found = torch.load(tmp_path / "found.pt")
    assert not same(expected(one), expected(two)), "two equal models prove nothing"
    for version, model in (("new", two), ("v1", one), ("commit", one), ("secret", two)):
        assert same(found[version], expected(model)), version


def test_code_of_a_repository_does_not_run_untrusted(hub, two_models, tmp_path):
    marker = tmp_path / "marker"
    files = {path.name: path.read_bytes() for path in two_models[0].iterdir()}
    trap = f"open({str(marker)!r}, 'w').close()\n".encode()
    for name in ("configuration_gadms.py", "modeling_gadms.py", "processing_gadms.py"):
        files[name] += trap
    hub.commit("me/evil", files, repo_type="model")
    run_alone(tmp_path, hub, UNTRUSTED, MARKER=str(marker))


def test_an_adapter_is_published_by_itself(hub, client, two_models):
    client.ask(f"{STORIES}.push_model", two_models[0], "me/base", token=MINE)
    wanted = client.ask(f"{STORIES}.push_adapter", "me/base", "me/adapter", token=MINE)
    found = client.ask(f"{STORIES}.load_adapter", "me/base", "me/adapter")
    assert found == wanted and wanted != client.ask(f"{STORIES}.load", "me/base")
    files = hub.files("me/adapter", repo_type="model")
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "me/base"


def test_clip_is_converted_from_a_revision_of_the_hub(hub, client, tmp_path):
    tokenizer = train_tokenizer(TEXTS * 3, vocab_size=530, max_length=24)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={"vocab_size": len(tokenizer), "max_position_embeddings": 24, "eos_token_id": 2, **sizes},
        vision_config={"image_size": 16, "patch_size": 8, **sizes},
        projection_dim=16,
    )
    models = {}
    for version, seed in (("old", 0), ("new", 1)):
        torch.manual_seed(seed)
        models[version] = CLIPModel(config)
        models[version].save_pretrained(tmp_path / version)
        tokenizer.save_pretrained(tmp_path / version)
        files = {path.name: path.read_bytes() for path in (tmp_path / version).iterdir()}
        hub.tag("me/clip", version, hub.commit("me/clip", files, repo_type="model"), repo_type="model")
    for revision, version in ((None, "new"), ("old", "old")):
        target = tmp_path / f"converted-{version}"
        client.ask(
            "modeling_gadms.conversion.converter.convert",
            "me/clip",
            str(target),
            image_size=(24, 8),
            revision=revision,
        )
        ours, theirs = GADMSModel.from_pretrained(target), models[version]
        assert torch.equal(ours.visual_projection.weight, theirs.visual_projection.weight)
    refused = client.refusal(
        "modeling_gadms.conversion.converter.convert", str(tmp_path / "old"), str(tmp_path / "x"), revision="old"
    )
    assert "revision = 'old' can only be used with a Hub name" in refused.message
