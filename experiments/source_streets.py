"""A kind of data for experiments: drawn streets of the source domain `sim` to measure on, other ones than are trained on."""
from stal_nb.datasets import register
from stal_nb.scenes import SceneDataset


def open_source_streets(role, root, config):
    "Validation images alone are of use; as target it would be no other domain."
    offset = 2_000_003 if role == "val" else 3_000_003  # the run's own scenes begin at the seed, its validation at 1,000,003
    return SceneDataset("sim", config.val_images or 1, size=config.image_size, seed=config.seed + offset)


register("source streets", open_source_streets, on_disk=False)
