"""The network and its teacher: shapes for every backbone, dilation that keeps weights valid, weight files and their faults, the average."""
import copy
import shutil
import urllib.error
from functools import partial

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from stal_nb import backbones, models
from stal_nb.backbones import (
    BACKBONES,
    Features,
    ResNetEncoder,
    find_backbone,
    load_weights,
    read_weights,
    replace_stride_,
)
from stal_nb.models import ARCHITECTURES, DeepLabV2, DeepLabV3Plus, EMATeacher, ParallelClassifiers, named_tensors
from stal_nb.runtime import batchnorm
from stal_nb.runtime.batchnorm import SynchronisedBatchNorm2d, synchronise_batchnorm
from stal_nb.runtime.errors import ConfigError, WeightsError
from together import spawn


def tiny(backbone="mobilenet_v3_small", num_classes=5, weights=None, architecture="deeplabv3plus", **options):
    return ARCHITECTURES[architecture](backbone, num_classes, weights=weights, **{"embedding_dim": 8, "aspp_channels": 16, **options})


class TwoConvolutions(nn.Module):
    "The smallest network that can be a backbone: quick to compile."

    mean, std = backbones.IMAGENET_MEAN, backbones.IMAGENET_STD

    def __init__(self, output_stride=8, pretrained=False):
        super().__init__()
        self.early, self.late = models.conv_bn_relu(3, 8), models.conv_bn_relu(8, 12, 3)
        self.output_stride, self.channels = output_stride, Features(8, 12, 12)

    def forward(self, images):
        low = self.early(nn.functional.avg_pool2d(images, 4, ceil_mode=True))
        high = self.late(nn.functional.avg_pool2d(low, self.output_stride // 4, ceil_mode=True))
        return Features(low, high, high)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return tiny().eval()


# -- shapes --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_every_backbone_at_every_stride(backbone, output_stride):
    "Also for odd sizes, as 769-pixel crops are; parts have the channels they promise."
    model = tiny(backbone, output_stride=output_stride).eval()
    height, width = 97, 161
    seen = []
    model.backbone.register_forward_hook(lambda _m, _i, features: seen.append(features))
    with torch.no_grad():
        output = model(torch.rand(1, 3, height, width))
    features = seen[0]
    up = lambda stride: (-(-height // stride), -(-width // stride))  # noqa: E731  rounded up
    assert features.low.shape == (1, model.backbone.channels.low, *up(4))
    assert features.mid.shape == (1, model.backbone.channels.mid, *up(output_stride))
    assert features.high.shape == (1, model.backbone.channels.high, *up(output_stride))
    assert output.logits.shape == (1, 5, height, width)
    assert output.embeddings.shape == (1, 8, *up(4))
    assert output.aux_logits is None
    assert torch.isfinite(output.logits).all()


def test_what_is_returned_in_which_mode(small):
    images = torch.rand(2, 3, 64, 96)
    model = copy.deepcopy(small)
    assert model(images, with_embeddings=False).embeddings is None
    assert model.train()(images).aux_logits.shape == (2, 5, 64, 96)
    assert tiny(aux_head=False).train()(images).aux_logits is None
    assert tiny().train()(images[:1]).logits.shape == (1, 5, 64, 96)  # one image is enough for BatchNorm


def test_sizes_that_fit_a_network_to_its_purpose():
    assert [b[0].dilation[0] for b in tiny().aspp.branches[1:]] == [6, 12, 18]
    assert [b[0].dilation[0] for b in tiny(output_stride=8).aspp.branches[1:]] == [12, 24, 36]
    assert [b[0].dilation[0] for b in tiny(aspp_dilations=[1, 2]).aspp.branches[1:]] == [1, 2]
    assert tiny(separable=False).aspp.branches[1][0].groups == 1
    assert tiny(separable=True).aspp.branches[1][0].groups == 576
    assert tiny(low_level_channels=7).decoder.low[0].out_channels == 7


def test_images_are_normalised_inside(small):
    "With the backbone's own mean and deviation; EfficientNet-Lite0 was trained with others than the ResNets."
    assert small.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert tiny("tf_efficientnet_lite0").mean.flatten().tolist() == [0.5, 0.5, 0.5]
    seen = []
    hook = small.backbone.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    images = torch.rand(1, 3, 64, 64)
    small(images)
    hook.remove()
    assert torch.allclose(seen[0], (images - small.mean) / small.std)
    assert not {"mean", "std"} & set(small.state_dict())  # constants, not weights


def test_the_same_seed_gives_the_same_network_and_output():
    images = torch.rand(1, 3, 64, 64)
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(tiny("resnet18").eval()(images))
    assert torch.equal(outputs[0].logits, outputs[1].logits) and torch.equal(outputs[0].embeddings, outputs[1].embeddings)


def test_memory_layout_and_precision(small):
    "channels_last changes nothing but rounding; bfloat16, as a whole or by autocast, stays finite."
    images = torch.rand(2, 3, 64, 96)
    expected = small(images).logits
    last = copy.deepcopy(small).to(memory_format=torch.channels_last)
    assert torch.allclose(last(images).logits, expected, atol=1e-4)
    half = copy.deepcopy(small).bfloat16()(images)
    assert half.logits.dtype == torch.bfloat16 and torch.isfinite(half.logits).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(small(images).logits).all()


@pytest.mark.parametrize("architecture, backbone", [("deeplabv3plus", "resnet18"), ("deeplabv2", "resnet18"), ("deeplabv2", "timm/test_efficientnet")])
def test_it_can_be_compiled_as_one_graph(architecture, backbone):
    "No data-dependent Python in the forward pass: torch.compile makes one graph of it."
    torch._dynamo.reset()
    model, images = tiny(backbone, architecture=architecture).eval(), torch.rand(1, 3, 64, 64)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(images).logits, model(images).logits, atol=1e-5)


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_a_compiled_training_pass_has_the_same_gradients(monkeypatch, architecture):
    monkeypatch.setitem(BACKBONES, "two", TwoConvolutions)
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, images = tiny("two", architecture=architecture, output_stride=8, dropout=0.0).train(), torch.rand(2, 3, 32, 48)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    gradients = []
    for network in (model, compiled):
        output = network(images)
        (output.logits.square().mean() + output.aux_logits.square().mean() + output.embeddings.square().mean()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert torch.allclose(*gradients, atol=1e-5)
    assert [name.removeprefix("_orig_mod.") for name in compiled.state_dict()] == list(model.state_dict())


@pytest.mark.slow
def test_generated_code_gives_the_same_outputs():
    """By torch's compiler where the machine has one for C++, else by its graph alone. The embedding head stands for all: whole networks make one graph
    above, and each kernel more costs seconds of g++."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    head, features = tiny("resnet18", architecture="deeplabv2", aux_head=False).eval().representation, torch.rand(2, 512, 4, 6)
    with torch.no_grad():
        compiled = torch.compile(head, fullgraph=True, backend="inductor" if shutil.which("g++") else "aot_eager")
        assert torch.allclose(compiled(features), head(features), atol=1e-5)


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_the_papers_network_in_every_layout_and_precision(architecture):
    "ResNet blocks, stride 8, plain convolutions: channels_last and bfloat16 autocast in a training pass."
    torch.manual_seed(0)
    model = tiny("resnet18", architecture=architecture, output_stride=8, separable=False, dropout=0.0).train()
    images = torch.rand(2, 3, 65, 97)
    expected = copy.deepcopy(model)(images)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    found = last(images.to(memory_format=torch.channels_last))
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(found, expected))
    assert last.backbone.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = last(images)
    low.logits.float().mean().backward()
    assert torch.isfinite(low.logits).all() and all(torch.isfinite(p.grad).all() for p in last.backbone.parameters())
    assert (low.logits.float() - expected.logits).abs().max() < 0.3 * expected.logits.abs().max()


# -- dilation ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, size", [("resnet18", (97, 161)), ("resnet18", (64, 96)), ("resnet50", (33, 65))])
def test_a_dilated_network_is_the_strided_one_at_more_places(name, size):
    torch.manual_seed(0)
    coarse = ResNetEncoder(name, output_stride=32).eval()
    dense = ResNetEncoder(name, output_stride=8).eval()
    dense.load_state_dict(coarse.state_dict())
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        old, new = coarse(images).high, dense(images).high
    assert torch.allclose(new[:, :, ::4, ::4], old, atol=1e-4 * old.abs().max())


def test_it_dilates_bottlenecks_as_torchvision_does():
    from torchvision.models import resnet50
    theirs = resnet50(replace_stride_with_dilation=[False, True, True])
    ours = ResNetEncoder("resnet50", output_stride=8)
    geometry = lambda net: {n: (m.stride, m.dilation, m.padding) for n, m in net.named_modules() if isinstance(m, nn.Conv2d)}  # noqa: E731
    assert geometry(ours) == geometry(theirs)


def test_multi_grid_multiplies_the_last_stage():
    net = ResNetEncoder("resnet50", output_stride=8, multi_grid=(2, 2, 4))
    assert [block.conv2.dilation for block in net.layer4] == [(4, 4), (8, 8), (16, 16)]
    assert [block.conv2.padding for block in net.layer4] == [(4, 4), (8, 8), (16, 16)]
    assert tiny("resnet18", multi_grid=[1, 2]).backbone.layer4[1].conv1.dilation == (4, 4)


def test_replacing_nothing_changes_nothing():
    stages = [nn.Sequential(nn.Conv2d(1, 1, 3, 2, 1), nn.Conv2d(1, 1, 5, 1, 2)) for _ in range(2)]
    replace_stride_(stages, 1, 4)
    assert [(c.stride, c.dilation, c.padding) for s in stages for c in s] == [((2, 2), (1, 1), (1, 1)), ((1, 1), (1, 1), (2, 2))] * 2


# -- DeepLab v2 and the papers' networks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output_stride, dilations", [(8, [6, 12, 18, 24]), (16, [3, 6, 9, 12])])
@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_small", "tf_efficientnet_lite0"])
def test_deeplab_v2_gives_what_v3plus_gives(backbone, output_stride, dilations):
    model = tiny(backbone, architecture="deeplabv2", output_stride=output_stride)
    images = torch.rand(2, 3, 97, 161)
    output = model(images)
    assert output.logits.shape == output.aux_logits.shape == (2, 5, 97, 161)
    assert output.embeddings.shape == (2, 8, -(-97 // output_stride), -(-161 // output_stride))
    assert model.eval()(images, with_embeddings=False)[1:] == (None, None)
    assert [branch.dilation[0] for branch in model.classifier.branches] == dilations
    assert [g["name"] for g in model.parameter_groups(0.1)] == ["backbone", "heads"]
    assert sum(p.numel() for g in model.parameter_groups(0.1) for p in g["params"]) == sum(p.numel() for p in model.parameters())
    assert not hasattr(model, "aspp") and not hasattr(model, "decoder")


def test_the_parallel_classifiers_are_a_sum_over_dilated_taps():
    torch.manual_seed(0)
    layer, x = ParallelClassifiers(4, 3, (1, 2, 5)).double(), torch.randn(2, 4, 9, 11, dtype=torch.float64)
    found = layer(x)
    for b, c, row, column in ((0, 0, 4, 5), (1, 2, 0, 0), (0, 1, 8, 3), (1, 0, 2, 10)):
        total = 0.0
        for branch in layer.branches:
            r = branch.dilation[0]
            total += branch.bias[c]
            for i in (-1, 0, 1):
                for j in (-1, 0, 1):
                    if 0 <= row + r * i < 9 and 0 <= column + r * j < 11:
                        total += branch.weight[c, :, i + 1, j + 1] @ x[b, :, row + r * i, column + r * j]
        assert torch.allclose(found[b, c, row, column], total, atol=1e-12)
    assert abs(ParallelClassifiers(512, 19, (6,)).branches[0].weight.std() - 0.01) < 2e-4
    noisy = ParallelClassifiers(4, 3, (1,), dropout=0.5)
    assert not torch.equal(noisy(x.float()), noisy(x.float())) and torch.equal(noisy.eval()(x.float()), noisy(x.float()))
    assert [m.groups for m in ParallelClassifiers(4, 3, (2,), separable=True).branches[0]] == [4, 1]


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_the_papers_networks_have_the_parameters_that_others_count():
    "Against torchvision's published number, its own ASPP, and formulas."
    from torchvision.models import ResNet101_Weights
    from torchvision.models.segmentation.deeplabv3 import ASPP
    with torch.device("meta"):
        full = DeepLabV3Plus("resnet101", 19, weights=None, output_stride=8, multi_grid=(2, 2, 4), aspp_dilations=(12, 24, 36), separable=False)
        slim, older = DeepLabV3Plus("resnet101", 19, weights=None, output_stride=16), DeepLabV2("resnet101", 19, weights=None)
        theirs = ASPP(2048, [12, 24, 36])
    backbone = ResNet101_Weights.IMAGENET1K_V1.meta["num_params"] - 2048 * 1000 - 1000
    assert parameters(full.backbone) == parameters(older.backbone) == backbone == 42_500_160
    assert parameters(full.aspp) == parameters(theirs) - 256  # their pooling has a BatchNorm (2 × 256), ours a bias
    around = lambda i, o: 9 * i * o + 2 * o  # noqa: E731  3×3 with BatchNorm
    assert parameters(full.decoder) == 256 * 48 + 2 * 48 + around(256 + 48, 256) + around(256, 256)
    assert parameters(older.classifier) == 4 * (9 * 2048 * 19 + 19)
    assert parameters(older.representation) == 2048 * 256 + 2 * 256 + 256 * 256 + 256
    separable = lambda i, o: 9 * i + 2 * i + i * o + 2 * o  # noqa: E731
    assert parameters(slim.aspp) == (2048 * 256 + 512) + 3 * separable(2048, 256) + (2048 * 256 + 256) + (5 * 256 * 256 + 512)
    assert parameters(slim.auxiliary) == 1024 * 64 + 2 * 64 + 64 * 19 + 19
    assert [block.conv2.dilation[0] for block in full.backbone.layer4] == [4, 8, 16]
    assert [branch[0].dilation[0] for branch in full.aspp.branches[1:]] == [12, 24, 36]
    images = torch.zeros(1, 3, 769, 769, device="meta")
    assert full.eval()(images).embeddings.shape == (1, 256, 193, 193) and older.eval()(images).embeddings.shape == (1, 256, 97, 97)


def test_all_architectures_take_the_same_arguments():
    options = dict(embedding_dim=4, weights=None, output_stride=8, aspp_channels=8, aspp_dilations=(1, 2), dropout=0.2, aux_head=False,
                   separable=True, multi_grid=(1, 2))
    for build in ARCHITECTURES.values():
        output = build("resnet18", 3, **options).train()(torch.rand(1, 3, 33, 47))
        assert output.logits.shape == (1, 3, 33, 47) and output.embeddings.shape[1] == 4 and output.aux_logits is None


# -- timm by name ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "resnet18.a1_in1k", "regnety_002", "convnext_atto", "mobilenetv4_conv_small"])
def test_networks_of_timm_go_by_their_name(name):
    for output_stride in (8, 16):
        model = tiny(f"timm/{name}", output_stride=output_stride).eval()
        features = model.backbone(torch.rand(1, 3, 97, 161))
        for stride, channels, found in zip((4, output_stride, output_stride), model.backbone.channels, features):
            size = (1, channels, -(-97 // stride), -(-161 // stride))
            floor = (1, channels, 97 // stride, 161 // stride)  # ConvNeXt's patches leave out what does not fill one
            assert tuple(found.shape) == size or name.startswith("convnext") and tuple(found.shape) == floor
        assert model(torch.rand(1, 3, 97, 161)).logits.shape == (1, 5, 97, 161)


@pytest.mark.parametrize("name, words", [
    ("timm/resnet19", r"found 'resnet19', which timm .* does not have, .*perhaps resnet"),
    ("timm/vit_tiny_patch16_224", "expected a network with feature maps and an output stride of 16"),
    ("timm/swin_tiny_patch4_window7_224", "expected a network with feature maps and an output stride of 16"),
    ("timm/vgg11", "expected a network with feature maps and an output stride of 16"),
    ("resnet19", "expected one of mobilenet_v3_small, .*, 'timm/NAME'"),
])
def test_networks_that_cannot_be_a_backbone_are_refused(name, words):
    with pytest.raises(ConfigError, match=words):
        tiny(name)


def test_a_line_in_the_table_is_a_backbone(monkeypatch):
    monkeypatch.setitem(BACKBONES, "two", TwoConvolutions)
    assert find_backbone("two") is TwoConvolutions
    assert tiny("two", output_stride=8)(torch.rand(2, 3, 32, 32)).logits.shape == (2, 5, 32, 32)
    assert isinstance(find_backbone("timm/resnet18"), partial)


# -- arguments -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, words", [
    ({"backbone": "vgg"}, "backbone: found 'vgg', expected one of mobilenet_v3_small"),
    ({"output_stride": 4}, "output_stride: found 4, expected 8 or 16"),
    ({"num_classes": 0}, "num_classes: found 0, expected a whole number of 1 or more"),
    ({"embedding_dim": 2.5}, "embedding_dim: found 2.5"),
    ({"aspp_dilations": ()}, r"aspp_dilations: found \(\)"),
    ({"aspp_dilations": (6, 0)}, "aspp_dilations"),
    ({"dropout": 1.0}, "dropout: found 1.0"),
    ({"multi_grid": (1, 2, 4)}, "multi_grid: .* not a ResNet"),
    ({"backbone": "resnet18", "multi_grid": (1, 2, 4)}, "multi_grid: .* expected 2 positive whole numbers"),
])
def test_arguments_that_cannot_work_are_named(options, words):
    with pytest.raises(ConfigError, match=words):
        tiny(**options)


@pytest.mark.parametrize("images", [torch.rand(3, 64, 64), torch.rand(1, 1, 64, 64), torch.zeros(1, 3, 64, 64, dtype=torch.uint8)])
def test_images_of_another_kind_are_refused(small, images):
    with pytest.raises(ConfigError, match=r"images: found shape .* expected \(B, 3, H, W\) of floats in \[0, 1\]"):
        small(images)


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_every_parameter_is_in_one_group(backbone):
    model = tiny(backbone)
    backbone_group, heads = model.parameter_groups(0.01, head_multiplier=5)
    assert (backbone_group["lr"], heads["lr"]) == (0.01, 0.05)
    ids = [id(p) for group in (backbone_group, heads) for p in group["params"]]
    assert len(ids) == len(set(ids)) and set(ids) == {id(p) for p in model.parameters()}
    assert {id(p) for p in backbone_group["params"]} == {id(p) for p in model.backbone.parameters()}


# -- ImageNet weights ----------------------------------------------------------------------------------------------------------


def test_packaged_weights_are_loaded_by_name(monkeypatch):
    "All tensors of the backbone come from the package, and no downloader is touched."
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *a, **k: pytest.fail("download"))
    packaged = backbones.lite0_package_weights()
    model = tiny("tf_efficientnet_lite0", weights="imagenet")
    own = model.backbone.net.state_dict()
    assert len(packaged) == 247
    for name, tensor in own.items():
        assert name.endswith("num_batches_tracked") or torch.equal(tensor, packaged[name])


@pytest.mark.parametrize("change, words", [
    (lambda t: dict(list(t.items())[1:]), "found 246 tensors, expected 247"),
    (lambda t: {**t, "_conv_stem.weight": torch.zeros(1)}, r"_conv_stem.weight: found shape \(1,\), expected \(32, 3, 3, 3\)"),
])
def test_packaged_weights_that_do_not_fit_are_refused(monkeypatch, change, words):
    original = backbones.read_weights
    monkeypatch.setattr(backbones, "read_weights", lambda path: change({k: v for k, v in original(path).items() if "num_batches" not in k}))
    with pytest.raises(WeightsError, match=words):
        backbones.lite0_package_weights()


def test_without_a_network_nothing_starts_at_random(monkeypatch):
    def no_network(url, *args, **kwargs):
        raise urllib.error.URLError("no route to host")
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    with pytest.raises(WeightsError) as caught:
        tiny("resnet18", weights="imagenet")
    text = str(caught.value)
    for words in ("resnet18", "https://download.pytorch.org/models/resnet18", "no route to host", "weights='file.safetensors'",
                  "weights=None", "tf_efficientnet_lite0"):
        assert words in text
    assert isinstance(caught.value.__cause__, urllib.error.URLError)


def test_without_a_network_timm_says_the_same(monkeypatch):
    from functools import partial
    monkeypatch.setitem(BACKBONES, "mobilenetv2_100", partial(backbones.TimmEncoder, "mobilenetv2_100"))
    real = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("cannot reach the hub")
        return real(name, pretrained=False, **options)
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsError, match="mobilenetv2_100.*cannot reach the hub.*weights=None"):
        tiny("mobilenetv2_100", weights="imagenet")


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_downloaded_weights_are_used_and_read_as_tensors_alone(monkeypatch, architecture):
    from torchvision.models import resnet18
    torch.manual_seed(5)
    published, asked = resnet18().state_dict(), {}
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *a, **k: asked.update(k) or published)
    own = tiny("resnet18", weights="imagenet", architecture=architecture).backbone.state_dict()
    assert all(torch.equal(tensor, published[name]) for name, tensor in own.items())
    assert asked["weights_only"] and asked["check_hash"]


def test_a_downloaded_file_with_code_in_it_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save({"conv1.weight": torch.zeros(2), "surprise": Surprise()}, tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    with pytest.raises(WeightsError, match="resnet18.*found UnpicklingError"):
        tiny("resnet18", weights="imagenet")
    assert not (tmp_path / "surprise.txt").exists()


# -- files ---------------------------------------------------------------------------------------------------------------------


def test_a_classifier_of_torchvision_becomes_the_backbone(tmp_path):
    from torchvision.models import resnet18
    published = resnet18().state_dict()
    torch.save(published, tmp_path / "resnet18.pth")
    model = tiny("resnet18", weights=tmp_path / "resnet18.pth")
    report = model.weights_report
    assert (report.part, report.missing, report.mismatched, report.unexpected) == ("backbone", (), (), ("fc.weight", "fc.bias"))
    assert torch.equal(model.backbone.layer3[1].conv2.weight, published["layer3.1.conv2.weight"])


@pytest.mark.parametrize("wrap", [
    lambda s: s, lambda s: {f"module.{k}": v for k, v in s.items()}, lambda s: {"state_dict": s, "epoch": 3},
    lambda s: {"model": {f"_orig_mod.{k}": v for k, v in s.items()}, "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}}},
])
def test_a_whole_network_is_found_behind_any_prefix(small, tmp_path, wrap):
    torch.save(wrap(small.state_dict()), tmp_path / "network.pth")
    model = tiny(weights=str(tmp_path / "network.pth"))
    assert model.weights_report.part == "network" and len(model.weights_report.matched) == len(small.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(named_tensors(model).values(), named_tensors(small).values()))


@pytest.mark.parametrize("prefix", ["", "module.", "state_dict.module.", "_orig_mod."])
def test_a_deeplab_v2_is_found_behind_any_prefix(tmp_path, prefix):
    torch.manual_seed(1)
    saved = tiny("resnet18", architecture="deeplabv2")
    save_file({f"{prefix}{k}": v for k, v in saved.state_dict().items()}, tmp_path / "v2.safetensors")
    again = tiny("resnet18", architecture="deeplabv2", weights=tmp_path / "v2.safetensors")
    assert (again.weights_report.part, again.weights_report.prefix) == ("network", prefix)
    assert all(torch.equal(a, b) for a, b in zip(named_tensors(again).values(), named_tensors(saved).values()))
    other = tiny("resnet18", weights=tmp_path / "v2.safetensors")  # v3+ takes the backbone and the auxiliary head, and says what it lacks
    assert torch.equal(other.backbone.conv1.weight, saved.backbone.conv1.weight)
    assert any(name.startswith("aspp.") for name in other.weights_report.missing)
    assert any(name.endswith("classifier.branches.0.weight") for name in other.weights_report.unexpected)


@pytest.mark.parametrize("prefix", ["", "module.", "encoder.", "module.backbone."])
def test_a_backbone_of_others_fits_a_deeplab_v2(tmp_path, prefix):
    from torchvision.models import resnet18
    published = resnet18().state_dict()
    torch.save({f"{prefix}{k}": v for k, v in published.items()}, tmp_path / "encoder.pth")
    model = tiny("resnet18", architecture="deeplabv2", weights=tmp_path / "encoder.pth")
    assert torch.equal(model.backbone.layer4[1].conv2.weight, published["layer4.1.conv2.weight"])
    assert not [name for name in model.weights_report.missing if "representation" not in name and "classifier" not in name and "auxiliary" not in name]


def test_other_classes_keep_their_head(small, tmp_path):
    save_file(small.state_dict(), tmp_path / "network.safetensors")
    report = tiny(num_classes=11, weights=tmp_path / "network.safetensors").weights_report
    assert report.mismatched == ("classifier.weight", "classifier.bias", "auxiliary.3.weight", "auxiliary.3.bias")
    assert not report.missing and not report.unexpected
    assert "4 (classifier.weight, classifier.bias, auxiliary.3.weight, …) of another shape" in str(report)


def test_a_training_checkpoint_gives_its_teacher(small, tmp_path):
    teacher = EMATeacher(small)
    with torch.no_grad():
        teacher.model.classifier.bias.fill_(7)
    tensors = {f"state.student.{k}": v for k, v in small.state_dict().items()}
    tensors |= {f"state.teacher.model.{k}": v.clone() for k, v in teacher.model.state_dict().items()}
    save_file(tensors, tmp_path / "checkpoint.safetensors")
    model = tiny(weights=tmp_path / "checkpoint.safetensors")
    assert model.weights_report.prefix == "state.teacher.model."
    assert (model.classifier.bias == 7).all()


def test_a_partly_fitting_backbone_is_worth_a_warning(tmp_path, monkeypatch):
    "The weights of a ResNet-18 all have a place in a ResNet-34, which has more."
    torch.save(BACKBONES["resnet18"]().state_dict(), tmp_path / "resnet18.pth")
    monkeypatch.setitem(BACKBONES, "resnet34", partial(ResNetEncoder, "resnet34"))
    with pytest.warns(UserWarning, match="part of the backbone keeps its random start: resnet18.pth into the backbone"):
        tiny("resnet34", weights=tmp_path / "resnet18.pth")


def test_a_file_of_which_nothing_fits_is_an_error(small, tmp_path):
    save_file({"first": torch.zeros(2), "second": torch.zeros(3)}, tmp_path / "other.safetensors")
    before = copy.deepcopy(small.state_dict())
    with pytest.raises(WeightsError, match=r"other.safetensors: found 2 tensors \(first, second, …\), none of which fits the backbone"):
        load_weights(small, tmp_path / "other.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(before.values(), small.state_dict().values()))


def test_a_network_with_another_backbone_is_an_error(small, tmp_path):
    "Its heads would fit, and the backbone would start at random."
    save_file(small.state_dict(), tmp_path / "network.safetensors")
    with pytest.raises(WeightsError, match="none of which fits the backbone"):
        tiny("tf_efficientnet_lite0", weights=tmp_path / "network.safetensors")


class Surprise:
    def __reduce__(self):
        return open, ("surprise.txt", "w")


def test_no_code_in_a_file_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": torch.zeros(2), "surprise": Surprise()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="evil.pth: found other objects or damage.*nothing in it was run"):
        read_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "surprise.txt").exists()


@pytest.mark.parametrize("name", ["damaged.safetensors", "damaged.pth", "empty.safetensors", "empty.pth"])
def test_files_that_cannot_be_read_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x00\x01 no weights" * 20 if name.startswith("damaged") else b"")
    with pytest.raises(WeightsError, match=name):
        read_weights(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    for name in ("nowhere.pth", "nowhere.safetensors"):
        with pytest.raises(WeightsError, match=f"{name}: not found"):
            tiny(weights=tmp_path / name)
    with pytest.raises(WeightsError):
        tiny(weights=tmp_path)  # a folder


def test_what_is_read_is_what_was_saved(small, tmp_path):
    save_file(small.state_dict(), tmp_path / "a.safetensors")
    torch.save(small.state_dict(), tmp_path / "a.pth")
    one, two, three = read_weights(tmp_path / "a.safetensors"), read_weights(tmp_path / "a.pth"), load_file(tmp_path / "a.safetensors")
    assert one.keys() == two.keys() == three.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)


# -- BatchNorm over processes ----------------------------------------------------------------------------------------------------


def one_pass(model, images, total):
    "Outputs, statistics and summed gradients of a training pass whose batch may be spread over processes."
    model.train()
    outputs = model(images)
    logits = outputs.logits if hasattr(outputs, "logits") else outputs
    (logits.square().sum() / total + logits.sin().sum()).backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    if batchnorm.process_count() > 1:
        torch.distributed.all_reduce(gradients)
    buffers = {name: tensor.clone() for name, tensor in named_tensors(model).items() if "running" in name or "num_batches" in name}
    return {"logits": logits.detach(), "gradients": gradients, **buffers}


def networks():
    "Layers alone in float32, with all options; whole networks in float64, the second with timm's BatchNorm that holds its activation."
    torch.manual_seed(0)
    yield "layers", nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5, momentum=None),
                                  nn.BatchNorm2d(5, affine=False, eps=1e-3), nn.BatchNorm2d(5, track_running_stats=False))
    for backbone in ("mobilenet_v3_small", "tf_efficientnet_lite0"):
        yield backbone, tiny(backbone, architecture="deeplabv2" if "lite0" in backbone else "deeplabv3plus", dropout=0.0, aux_head=False).double()


def mean_over_processes_network():
    torch.manual_seed(2)
    return tiny("resnet18", architecture="deeplabv2", dropout=0.0).double().train()


SHARES = {2: [slice(0, 3), slice(3, 4)]}  # three images on the first process, one on the second


def batchnorm_process(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    images = torch.load(f"{folder}/images.pt", weights_only=True)
    found = {}
    for name, model in networks():
        names, tensors = list(model.state_dict()), named_tensors(model)
        assert synchronise_batchnorm(model) is model and synchronise_batchnorm(model) is model  # twice is once
        assert list(model.state_dict()) == names and all(named_tensors(model)[k] is v for k, v in tensors.items())
        assert not any(type(m) in (nn.BatchNorm2d, timm.layers.BatchNormAct2d) for m in model.modules())
        dtype = next(model.parameters()).dtype
        for step in range(2):  # the second pass starts from moved statistics
            result = one_pass(model, images[SHARES[2][rank]].to(dtype), len(images))
            found |= {f"{name}/{step}/{key}": value for key, value in result.items()}
        with torch.no_grad():
            if rank == 0:  # in evaluation mode nobody waits for anybody
                outputs = model.eval()(images.to(dtype))
                found[f"{name}/eval"] = outputs.logits if hasattr(outputs, "logits") else outputs
    model = synchronise_batchnorm(mean_over_processes_network())
    wrapped = torch.nn.parallel.DistributedDataParallel(model)  # its own exchange of gradients goes on at the same time
    for _ in range(2):
        model.zero_grad()
        share = images[2 * rank:2 * rank + 2].double()
        sum(output.square().mean() for output in wrapped(share)).backward()
    found["wrapped/gradients"] = torch.cat([p.grad.flatten() for p in model.parameters()])

    class Odd(nn.BatchNorm2d):
        "A layer that the converter cannot know."

    for odd in (Odd(2), nn.BatchNorm1d(2)):
        with pytest.raises(ConfigError, match=f"found {type(odd).__name__} at 0, expected nn.BatchNorm2d"):
            synchronise_batchnorm(nn.Sequential(odd))
    half = SynchronisedBatchNorm2d(3)(images[SHARES[2][rank]].bfloat16())
    assert half.dtype == torch.bfloat16
    save_file({k: v.contiguous() for k, v in found.items()}, f"{folder}/{rank}.safetensors")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_with_a_part_of_the_batch_each_are_one_with_all_of_it(tmp_path):
    "Outputs, running statistics and gradients, over two passes; shares of three images and one."
    torch.manual_seed(3)
    images = torch.rand(4, 3, 40, 48) + torch.linspace(0, 2, 4)[:, None, None, None]  # each process alone would see other statistics
    torch.save(images, tmp_path / "images.pt")
    spawn(batchnorm_process, str(tmp_path))
    parts = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(2)]
    for name, model in networks():
        dtype = next(model.parameters()).dtype
        for step in range(2):
            for key, expected in one_pass(model, images.to(dtype), len(images)).items():
                found = [part[f"{name}/{step}/{key}"] for part in parts]
                if key == "logits":
                    assert torch.allclose(torch.cat(found), expected, rtol=1e-5, atol=1e-5 * max(1, expected.abs().max())), (name, step)
                    continue
                assert torch.equal(*found) or torch.allclose(*found, rtol=1e-6)
                assert torch.allclose(found[0].to(expected), expected, rtol=1e-5, atol=1e-5 * max(1, expected.abs().max())), (name, step, key)
        outputs = model.eval()(images.to(dtype))
        expected = (outputs.logits if hasattr(outputs, "logits") else outputs).detach()
        assert torch.allclose(parts[0][f"{name}/eval"], expected, rtol=1e-5, atol=1e-5 * max(1, expected.abs().max()))
    model = mean_over_processes_network()
    for _ in range(2):
        model.zero_grad()
        sum(output.square().mean() for output in model(images.double())).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    for part in parts:  # as several devices train: each a half, and gradients averaged while they come
        assert torch.allclose(part["wrapped/gradients"], expected, rtol=1e-8, atol=1e-10 * expected.abs().max())


def test_alone_nothing_is_synchronised(small):
    model = copy.deepcopy(small)
    assert synchronise_batchnorm(model) is model
    assert [type(m) for m in model.modules()] == [type(m) for m in small.modules()]
    plain, own = nn.BatchNorm2d(4), SynchronisedBatchNorm2d(4)
    x = torch.randn(3, 4, 5, 5)
    assert torch.equal(plain(x), own(x)) and torch.equal(plain.running_var, own.running_var)
    assert torch.equal(plain.eval()(x), own.eval()(x))


def test_on_gpus_torchs_own_layer_is_used_and_keeps_timms_activations(monkeypatch):
    "Without a GPU only the conversion can be looked at: kinds of layers, names, and the output in evaluation mode."
    model = tiny("tf_efficientnet_lite0").eval()
    images = torch.rand(1, 3, 64, 64)
    names, expected = list(model.state_dict()), model(images).logits
    monkeypatch.setattr(batchnorm, "process_count", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "nccl")
    converted = synchronise_batchnorm(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in converted.modules())
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in converted.modules()) > 50
    assert list(converted.state_dict()) == names
    assert torch.allclose(converted(images).logits, expected, atol=1e-5)
    kinds = [type(m) for m in converted.modules()]
    assert [type(m) for m in synchronise_batchnorm(converted).modules()] == kinds, "each stage of a run asks again: nothing is converted twice"


# -- the teacher ---------------------------------------------------------------------------------------------------------------


def slow_average(path, decay, window):
    "Plain Python over single numbers."
    teacher = dict(path[0])
    for step, weights in enumerate(path[1:]):
        d = min(1 - 1 / (window * step + 1), decay)
        teacher = {name: [d * a + (1 - d) * b for a, b in zip(teacher[name], weights[name])] for name in teacher}
    return teacher


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("window", [0.0, 0.2, 1.0])
def test_the_average_agrees_with_a_slow_loop(decay, window):
    torch.manual_seed(0)
    student = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).double()
    floats = lambda: {n: t.flatten().tolist() for n, t in named_tensors(student).items() if t.is_floating_point()}  # noqa: E731
    teacher, path = EMATeacher(student, decay, window), [floats()]
    for step in range(12):
        student(torch.randn(2, 2, 6, 6, dtype=torch.float64) + step)  # moves BatchNorm's statistics and counter
        with torch.no_grad():
            student[0].weight += torch.randn_like(student[0].weight)
        path.append(floats())
        teacher.update(student, step)
    for name, values in slow_average(path, decay, window).items():
        assert named_tensors(teacher.model)[name].flatten().tolist() == pytest.approx(values, rel=1e-12, abs=1e-14), name
    assert teacher.model[1].num_batches_tracked == student[1].num_batches_tracked == 12


def test_the_first_update_copies_and_a_student_at_rest_is_a_fixed_point(small):
    student = copy.deepcopy(small)
    teacher = EMATeacher(student, 0.99)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.normal_()
    for step in (0, 0, 1, 50, 10_000):
        teacher.update(student, step)
        assert all(torch.equal(a, b) for a, b in zip(named_tensors(teacher.model).values(), named_tensors(student).values()))


def test_the_teacher_stays_in_evaluation_mode_without_gradients(small):
    student = copy.deepcopy(small)
    both = nn.ModuleDict({"student": student, "teacher": EMATeacher(student)})
    before = {k: v.clone() for k, v in both["teacher"].state_dict().items()}
    both.train()
    both["teacher"].train()
    assert student.training and not any(m.training for m in both["teacher"].modules())
    both.requires_grad_(True)  # even then
    output = both["teacher"](torch.rand(2, 3, 64, 64))
    assert output.aux_logits is None and not output.logits.requires_grad
    assert all(torch.equal(before[k], v) for k, v in both["teacher"].state_dict().items())  # looking changes no statistics


def test_teacher_and_student_share_nothing(small):
    student = copy.deepcopy(small)
    teacher = EMATeacher(student)
    pointers = {t.data_ptr() for t in named_tensors(student).values()}
    assert not pointers & {t.data_ptr() for t in named_tensors(teacher.model).values()}
    teacher.update(student, 0)
    assert not pointers & {t.data_ptr() for t in named_tensors(teacher.model).values()}
    assert all(p.requires_grad for p in student.parameters())


def test_the_teacher_refuses_what_cannot_be_averaged(small):
    with pytest.raises(ConfigError, match="decay: found 1.5, expected a number from 0 to 1"):
        EMATeacher(small, 1.5)
    with pytest.raises(ConfigError, match="window: found -0.1, expected a number from 0 to 1"):
        EMATeacher(small, window=-0.1)
    teacher = EMATeacher(small)
    with pytest.raises(ConfigError, match="step: found -1"):
        teacher.update(small, -1)
    with pytest.raises(ConfigError, match="student: found .* tensors, expected the teacher's"):
        teacher.update(small.backbone, 3)


def test_the_demo_model_can_be_trained_from_a_block_without_gradients(tmp_path, monkeypatch):
    "On a fresh machine the first call trains it, wherever that call stands."
    from stal_nb.app import demo

    monkeypatch.setenv("STAL_NB_CACHE", str(tmp_path))
    monkeypatch.setattr(demo, "DEMO_RECIPE", {**demo.DEMO_RECIPE, "steps": 1, "batch": 2, "size": (64, 128)})
    for guard in (torch.no_grad, torch.inference_mode):
        demo.demo_model.cache_clear()
        with guard():
            assert demo.demo_model()(torch.rand(1, 3, 64, 128)).logits.shape == (1, 19, 64, 128)
        for file in tmp_path.glob("*.safetensors"):
            file.unlink()
    demo.demo_model.cache_clear()


def test_a_damaged_file_of_weights_is_made_again(tmp_path, monkeypatch):
    "Of the cache; one that is whole is read and nothing is trained."
    from safetensors.torch import load_file

    from stal_nb.app import demo

    monkeypatch.setenv("STAL_NB_CACHE", str(tmp_path))
    trained = []

    def train():
        trained.append(1)
        return {"a": torch.arange(3.0)}

    for content in (None, b"half a fi", b""):
        if content is not None:
            (tmp_path / "x.safetensors").write_bytes(content)
        assert demo.stored_or_trained("x.safetensors", load_file, train)["a"].tolist() == [0, 1, 2]
        assert demo.stored_or_trained("x.safetensors", lambda file: load_file(file)["a"], train).tolist() == [0, 1, 2]
    assert len(trained) == 3
