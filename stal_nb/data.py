from pathlib import Path
import math
import numpy as np, torch
from torch.nn import functional as F
from torchvision.io import decode_image, ImageReadMode
from torchvision.transforms.v2 import functional as TF
from torch.utils.data import Dataset
from stal_nb.labels import CAMVID, CITYSCAPES, IGNORE, Sample, remap
from stal_nb.errors import DataError
class CamVid(Dataset):
    def __init__(self, root, split, size=None):
        self.root, self.split, self.label_space = Path(root), split, CAMVID
        if not (self.root / split).is_dir(): raise DataError(f"{self.root/split}: folder not found")
        self.files = sorted((self.root / split).glob("*.jpg")) + sorted((self.root / split).glob("*.png"))
        self.ids = [f.stem for f in self.files]; self.groups = [i.split("_")[0] for i in self.ids]
    def __len__(self): return len(self.files)
    def __getitem__(self, i):
        x = decode_image(str(self.files[i]), ImageReadMode.RGB).float() / 255
        y = decode_image(str(self.root / f"{self.split}annot" / f"{self.ids[i]}.png"), ImageReadMode.UNCHANGED)[0].long()
        y[y == 11] = IGNORE
        return Sample(x, y, self.ids[i], self.groups[i])
class ImageFolder(Dataset): pass
class RelabelledDataset(Dataset):
    def __init__(self, dataset, label_space):
        self.dataset, self.label_space = dataset, label_space
        self.ids, self.groups = dataset.ids, dataset.groups
        self.mapping = dataset.label_space.mapping_to(label_space)
    def __len__(self): return len(self.dataset)
    def __getitem__(self, i):
        s = self.dataset[i]; return s._replace(labels=remap(s.labels, self.mapping))
def _u(g, a, b): return float(torch.rand((), generator=g)) * (b - a) + a
def _place(image, labels, crop_size, factor, gen, flip):
    H, W = image.shape[-2:]; h, w = crop_size
    sh, sw = max(1, round(H * factor)), max(1, round(W * factor))
    def off(s, c):
        return int(torch.randint(0, s - c + 1, (), generator=gen)) if s >= c else -int(torch.randint(0, c - s + 1, (), generator=gen))
    oy, ox = off(sh, h), off(sw, w)
    y0, x0 = max(0, oy), max(0, ox); y1, x1 = min(sh, oy + h), min(sw, ox + w)
    a, b = int(y0 / sh * H), int(x0 / sw * W); c, d = min(H, math.ceil(y1 / sh * H)), min(W, math.ceil(x1 / sw * W))
    im = F.interpolate(image[None, :, a:c, b:d], (y1 - y0, x1 - x0), mode="bilinear", antialias=factor < 1)[0]
    la = F.interpolate(labels[None, None, a:c, b:d].float(), (y1 - y0, x1 - x0), mode="nearest")[0, 0].long()
    out = torch.zeros(3, h, w) + 0.5; lab = torch.full((h, w), IGNORE)
    py, px = y0 - oy, x0 - ox
    out[:, py:py + y1 - y0, px:px + x1 - x0] = im; lab[py:py + y1 - y0, px:px + x1 - x0] = la
    if flip and _u(gen, 0, 1) < .5: out, lab = out.flip(-1), lab.flip(-1)
    return out, lab
def weak_augment(image, labels, crop_size, generator, scale=(0.5, 2.0), flip=True):
    return _place(image, labels, crop_size, math.exp(_u(generator, math.log(scale[0]), math.log(scale[1]))), generator, flip)
def paste_augment(image, labels, crop_size, generator, scale=(0.1, 2.0)):
    return _place(image, labels, crop_size, _u(generator, *scale), generator, True)
def strong_augment(images, generator):
    out = []
    r = torch.rand(len(images), 8, generator=generator)
    for x, u in zip(images, r):
        if u[0] < .8:
            x = TF.adjust_brightness(x, float(.5 + u[1])); x = TF.adjust_contrast(x, float(.5 + u[2])); x = TF.adjust_saturation(x, float(.5 + u[3])); x = TF.adjust_hue(x, float(u[4] - .5) * .2)
        if u[5] < .2: x = TF.rgb_to_grayscale(x, 3)
        if u[6] < .5: s = float(.15 + u[7] * 1.0); x = TF.gaussian_blur(x, [5, 5], [s, s])
        out.append(x)
    return torch.stack(out)
