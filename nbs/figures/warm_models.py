"""The demo model before and after a short self-training on the other domain; for 09 Uncertainty and
runtime/calibration."""

import hashlib
import json
from copy import deepcopy
from functools import lru_cache

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from stal_nb.app.demo import DEMO_RECIPE, cache_folder, demo_model, recipe_key
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

    The networks are the EMA teachers of one run after 30, 45 and 60 steps. The first call on a machine trains them
    (about half a minute on
    two cores); later calls load them from the cache.
    """
    names = {step: f"warm-up, step {step}" for step in WARM_UP["snapshots"]}
    start = demo_model()
    key = hashlib.sha256(json.dumps([recipe_key({**DEMO_RECIPE, "domain": "sim"}), WARM_UP],
                                    sort_keys=True).encode()).hexdigest()[:12]
    files = {name: cache_folder() / f"warm-{key}-{step}.safetensors" for step, name in names.items()}
    with FileLock(f"{next(iter(files.values()))}.lock"), torch.inference_mode(False), torch.enable_grad():
        try:
            found = {name: load_file(file) for name, file in files.items()}
        except (OSError, SafetensorError):
            found = {names[step]: weights for step, weights in _warm_up(start).items()}
            for name, weights in found.items():
                atomic_write_bytes(files[name], save({k: v.contiguous() for k, v in weights.items()}))
        models = {"before warm-up": start}
        for name, weights in found.items():
            models[name] = deepcopy(start)
            models[name].load_state_dict(weights)
    return {name: model.eval() for name, model in models.items()}


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
