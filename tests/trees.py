"""Data sets of scenes in the exact formats of GTA5, SYNTHIA-RAND-CITYSCAPES and Cityscapes, as small as a test likes."""
from pathlib import Path

from PIL import Image

from stal_nb.readers import write_cityscapes, write_gta5, write_synthia
from stal_nb.scenes import SceneDataset

SIZE = (64, 128)


def gta5_tree(root: Path, n: int = 6, size: tuple[int, int] = SIZE, odd: int = 1, seed: int = 0) -> SceneDataset:
    "`images/` and `labels/`; the first `odd` labels are stored at three quarters of their size, as a few of the real ones have another size."
    scenes = SceneDataset("sim", n, size=size, seed=seed)
    write_gta5(scenes, root)
    for number in range(1, odd + 1):
        file = Path(root) / "labels" / f"{number:05d}.png"
        with Image.open(file) as label:
            label.load()
        label.resize((size[1] * 3 // 4, size[0] * 3 // 4), Image.Resampling.NEAREST).save(file)
    return scenes


def synthia_tree(root: Path, n: int = 6, size: tuple[int, int] = SIZE, folder: str = "GT/LABELS", seed: int = 0) -> SceneDataset:
    "`RGB/` and `GT/LABELS/` (or `LABELS/`)."
    scenes = SceneDataset("sim", n, size=size, seed=seed, exclude=("terrain", "truck", "train"))
    write_synthia(scenes, root, folder)
    return scenes


def cityscapes_tree(root: Path, train: int = 6, val: int = 2, size: tuple[int, int] = SIZE, train_ids: bool = False,
                    seed: int = 0) -> tuple[SceneDataset, SceneDataset]:
    "`leftImg8bit/` and `gtFine/`, each with `train/` and `val/` and a folder a city."
    splits = SceneDataset("real", train, size=size, seed=seed), SceneDataset("real", val, size=size, seed=seed + 1_000_003)
    for name, scenes in zip(("train", "val"), splits):
        write_cityscapes(scenes, root, name, train_ids)
    return splits
