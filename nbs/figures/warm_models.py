"""The demo model before and after a short self-training on the other domain; for 09 Uncertainty and
runtime/calibration."""

import hashlib
import json
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from stal_nb.app.demo import DEMO_RECIPE, STORED, demo_model, recipe_key, stored_or_trained
from stal_nb.config import TrainingConfig
from stal_nb.labels import CITYSCAPES
from stal_nb.runtime.files import atomic_write_bytes
from stal_nb.scenes import SceneDataset
from stal_nb.step import TrainingState
from stal_nb.trainer import Trainer

# Networks of several rounds
#
# The demo model before and after a short self-training on the other domain: what the explorers call rounds.

WARM_UP = dict(steps=60, snapshots=(30, 45, 60), labelled=4, target_images=160, seed=0)  # how `warm_models` are made


@lru_cache(maxsize=1)
def warm_models() -> dict[str, nn.Module]:  # name -> network in evaluation mode, in the order of training
    """The demo model before, during and after a short warm-up: self-training on the domain `real`, of which four images
    are labelled.

    The networks are the EMA teachers of one run after 30, 45 and 60 steps. Their weights come with the notebooks; with
    another recipe they are trained once a machine (about half a minute on two cores) and kept in the cache.
    """
    start = demo_model()
    with torch.inference_mode(False), torch.enable_grad():
        models = {"before warm-up": start}
        found = stored_or_trained(file_name(), lambda file: unpacked(load_file(file), start),
                                  lambda: packed(_warm_up(start), start))
        for step, weights in found.items():
            models[f"warm-up, step {step}"] = deepcopy(start)
            models[f"warm-up, step {step}"].load_state_dict(weights)
    return {name: model.eval() for name, model in models.items()}


def store_warm_models(folder: Path = STORED) -> Path:
    "Train them here and write their weights, for everybody's pictures to show the same networks."
    file = folder / file_name()
    start = demo_model()
    atomic_write_bytes(file, save(packed(_warm_up(start), start)))
    return file


def file_name() -> str:
    "It changes with all that the networks depend on."
    demo = recipe_key({**DEMO_RECIPE, "domain": "sim"})
    return f"warm-{hashlib.sha256(json.dumps([demo, WARM_UP], sort_keys=True).encode()).hexdigest()[:12]}.safetensors"


def packed(trained: dict[int, dict[str, Tensor]], start: nn.Module) -> dict[str, Tensor]:
    """A byte a weight: kernels as the difference to the network before, in 127 parts of the largest of each output
    channel; all else in half precision."""
    stored, before = {}, start.state_dict()
    for step, weights in trained.items():
        for name, value in weights.items():
            if value.ndim < 2:
                stored[f"{step}/{name}"] = value.half() if value.is_floating_point() else value
                continue
            change = value - before[name]
            largest = change.flatten(1).abs().amax(1).clamp(min=1e-12)
            stored[f"{step}/{name}/part"] = largest / 127
            stored[f"{step}/{name}"] = (change.flatten(1) / largest[:, None] * 127).round().to(torch.int8)
    return stored


def unpacked(stored: dict[str, Tensor], start: nn.Module) -> dict[int, dict[str, Tensor]]:
    "Inverse of `packed`, up to its rounding. Raises `KeyError` or `RuntimeError` for weights of another network."
    before, trained = start.state_dict(), {}
    for step in WARM_UP["snapshots"]:
        trained[step] = {}
        for name, value in before.items():
            found = stored[f"{step}/{name}"]
            if value.ndim >= 2:
                found = value + (found * stored[f"{step}/{name}/part"][:, None]).view_as(value)
            trained[step][name] = found.to(value.dtype)
    return trained


def _warm_up(start: nn.Module) -> dict[int, dict[str, Tensor]]:
    "Train, and keep the teacher's weights after some steps."
    demo = DEMO_RECIPE
    config = TrainingConfig(
        backbone=demo["backbone"], weights=None, aspp_channels=demo["aspp_channels"],
        embedding_dim=demo["embedding_dim"], crop_size=(128, 256),
        source_scale=(0.75, 1.5), target_scale=(0.75, 1.5), source_batch=2, target_batch=2, unlabelled_batch=3, lr=0.01,
        num_negatives=64,
        bank_capacity=2000, bank_push=64, confidence_momentum=0.97, class_rate=False, lambda_u=0.2, drop_percent=50.0,
        teacher_decay=0.95,
        seed=WARM_UP["seed"])
    source, target = (SceneDataset(domain, WARM_UP["target_images"], seed=WARM_UP["seed"])
                      for domain in ("sim", "real"))
    state = TrainingState(config, CITYSCAPES.num_classes, len(source), len(target))
    for network in (state.student, state.teacher.model):
        network.load_state_dict(start.state_dict())
    labelled = range(WARM_UP["labelled"])
    trainer = Trainer(config, CITYSCAPES, state, source, target=target, labelled=labelled,
                      unlabelled=range(len(labelled), len(target)),
                      num_steps=WARM_UP["steps"], stage=1, log_every=1)
    kept = {}

    def keep(row: dict) -> None:
        if trainer.step in WARM_UP["snapshots"]:
            kept[trainer.step] = {k: v.clone() for k, v in state.teacher.model.state_dict().items()}

    trainer.fit(bar=False, on_log=keep)
    return kept
