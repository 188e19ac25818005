"""The network and its teacher: shapes for every backbone, dilation that keeps weights valid, weight files and their faults, the average."""
import copy
import urllib.error

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from stal_nb import models
from stal_nb.errors import ConfigError, WeightsError
from stal_nb.models import BACKBONES, DeepLabV3Plus, EMATeacher, ResNetEncoder, load_weights, named_tensors, read_weights, replace_stride_


def tiny(backbone="mobilenet_v3_small", num_classes=5, weights=None, **options):
    return DeepLabV3Plus(backbone, num_classes, weights=weights, **{"embedding_dim": 8, "aspp_channels": 16, **options})


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


def test_it_can_be_compiled_as_one_graph():
    "No data-dependent Python in the forward pass: torch.compile makes one graph of it."
    model, images = tiny("resnet18").eval(), torch.rand(1, 3, 64, 64)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(images).logits, model(images).logits, atol=1e-5)


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
    packaged = models.lite0_package_weights()
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
    original = models.read_weights
    monkeypatch.setattr(models, "read_weights", lambda path: change({k: v for k, v in original(path).items() if "num_batches" not in k}))
    with pytest.raises(WeightsError, match=words):
        models.lite0_package_weights()


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
    monkeypatch.setitem(BACKBONES, "mobilenetv2_100", partial(models.TimmEncoder, "mobilenetv2_100"))
    real = models.timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("cannot reach the hub")
        return real(name, pretrained=False, **options)
    monkeypatch.setattr(models.timm, "create_model", offline)
    with pytest.raises(WeightsError, match="mobilenetv2_100.*cannot reach the hub.*weights=None"):
        tiny("mobilenetv2_100", weights="imagenet")


def test_downloaded_weights_are_used(monkeypatch):
    from torchvision.models import resnet18
    torch.manual_seed(5)
    published = resnet18().state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *a, **k: published)
    own = tiny("resnet18", weights="imagenet").backbone.state_dict()
    assert all(torch.equal(tensor, published[name]) for name, tensor in own.items())


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


def test_a_partly_fitting_backbone_is_worth_a_warning(tmp_path):
    "The weights of a ResNet-18 all have a place in a ResNet-34, which has more."
    torch.save(BACKBONES["resnet18"]().state_dict(), tmp_path / "resnet18.pth")
    BACKBONES["resnet34"] = models.partial(ResNetEncoder, "resnet34")
    try:
        with pytest.warns(UserWarning, match="part of the backbone keeps its random start: resnet18.pth into the backbone"):
            tiny("resnet34", weights=tmp_path / "resnet18.pth")
    finally:
        del BACKBONES["resnet34"]


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


# -- the teacher ---------------------------------------------------------------------------------------------------------------


def slow_average(path, decay):
    "Plain Python over single numbers."
    teacher = dict(path[0])
    for step, weights in enumerate(path[1:]):
        d = min(1 - 1 / (step + 1), decay)
        teacher = {name: [d * a + (1 - d) * b for a, b in zip(teacher[name], weights[name])] for name in teacher}
    return teacher


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_the_average_agrees_with_a_slow_loop(decay):
    torch.manual_seed(0)
    student = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).double()
    floats = lambda: {n: t.flatten().tolist() for n, t in named_tensors(student).items() if t.is_floating_point()}  # noqa: E731
    teacher, path = EMATeacher(student, decay), [floats()]
    for step in range(12):
        student(torch.randn(2, 2, 6, 6, dtype=torch.float64) + step)  # moves BatchNorm's statistics and counter
        with torch.no_grad():
            student[0].weight += torch.randn_like(student[0].weight)
        path.append(floats())
        teacher.update(student, step)
    for name, values in slow_average(path, decay).items():
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
    teacher = EMATeacher(small)
    with pytest.raises(ConfigError, match="step: found -1"):
        teacher.update(small, -1)
    with pytest.raises(ConfigError, match="student: found .* tensors, expected the teacher's"):
        teacher.update(small.backbone, 3)


def test_the_demo_model_can_be_trained_from_a_block_without_gradients(tmp_path, monkeypatch):
    "On a fresh machine the first call trains it, wherever that call stands."
    from stal_nb.explore import models

    monkeypatch.setenv("STAL_NB_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "DEMO_RECIPE", {**models.DEMO_RECIPE, "steps": 1, "batch": 2, "size": (64, 128)})
    for guard in (torch.no_grad, torch.inference_mode):
        models.demo_model.cache_clear()
        with guard():
            assert models.demo_model()(torch.rand(1, 3, 64, 128)).logits.shape == (1, 19, 64, 128)
        for file in tmp_path.glob("*.safetensors"):
            file.unlink()
    models.demo_model.cache_clear()
