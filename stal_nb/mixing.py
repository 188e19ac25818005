import torch
from torch import nn
from torch.nn import functional as F
from stal_nb.labels import IGNORE
def copy_paste(image, labels, paste_image, paste_labels, classes):
    table = torch.cat([classes, classes.new_zeros(len(classes), 256 - classes.shape[1])], 1)
    m = table.gather(1, paste_labels.flatten(1)).view_as(paste_labels)
    return torch.where(m[:, None], paste_image, image), torch.where(m, paste_labels, labels)
def box_mask(boxes, H, W):
    y = torch.arange(H, device=boxes.device); x = torch.arange(W, device=boxes.device); b = boxes[:, :, None]
    return ((y >= b[:, 0]) & (y < b[:, 2]))[:, :, None] & ((x >= b[:, 1]) & (x < b[:, 3]))[:, None]
def cutmix(boxes, *pairs, stride=1):
    out = []
    for a, b in pairs:
        m = box_mask(boxes // stride, *a.shape[-2:])
        out.append(torch.where(m.view(len(m), *[1] * (a.ndim - 3), *m.shape[1:]), b, a))
    return tuple(out)
def class_boxes(labels, classes, generator=None, stride=4, min_size=32):
    B, H, W = labels.shape
    m = labels[:, ::stride, ::stride] == classes[:, None, None]
    h, w = m.shape[1:]
    r = torch.rand(B, h, w, generator=generator, device=labels.device)
    seed = torch.where(m, r, -torch.ones_like(r)).flatten(1).argmax(1)
    g = torch.zeros(B, h * w, device=labels.device).scatter_(1, seed[:, None], 1.0).view(B, h, w)
    region = g.bool()
    for _ in range(24): region = (F.max_pool2d(region[:, None].float(), 3, 1, 1)[:, 0] > 0) & (m | g.bool())
    rows, cols = region.any(2), region.any(1)
    ar = lambda t: t.float()
    y0 = rows.float().argmax(1); y1 = h - rows.flip(1).float().argmax(1); x0 = cols.float().argmax(1); x1 = w - cols.flip(1).float().argmax(1)
    pad = max(1, min_size // stride // 2)
    return torch.stack([(y0 - pad).clamp(min=0), (x0 - pad).clamp(min=0), (y1 + pad).clamp(max=h), (x1 + pad).clamp(max=w)], 1) * stride
class CutMixTable(nn.Module):
    def __init__(self, num_images, num_classes, min_pixels=64):
        super().__init__(); self.min_pixels = min_pixels; self.register_buffer("present", torch.zeros(num_images, num_classes, dtype=torch.bool))
    def update(self, indices, labels):
        C = self.present.shape[1]
        n = torch.zeros(len(labels), 256, device=labels.device).scatter_add_(1, labels.flatten(1), torch.ones_like(labels.flatten(1), dtype=torch.float))
        self.present[indices] = n[:, :C] >= self.min_pixels
