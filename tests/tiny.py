"""A run small enough for tests: seconds, not minutes, through the same code as a full one."""
from stal_nb.config import Config

TINY = dict(
    backbone="timm/test_efficientnet", weights=None, aspp_channels=16, embedding_dim=8, image_size=(64, 128), crop_size=(64, 128),
    source_images=6, target_images=10, val_images=3, source_batch=1, target_batch=1, unlabelled_batch=2, source_steps=3, round_steps=(4, 3),
    budgets=(0.1, 0.3), num_anchors=8, num_negatives=8, bank_capacity=64, bank_push=8, plan_every=2, checkpoint_every=2)


def tiny(**changes) -> Config:
    return Config.preset("demo", **{**TINY, **changes})
