"""Using a trained network: averages over views are exact, and a measurement shared by processes is that of one."""
import math
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from stal_nb.evaluation import evaluate, same_size_batches
from stal_nb.labels import CITYSCAPES, IGNORE, Sample
from stal_nb.models import DeepLabV3Plus, SegmentationOutput, predict_logits, predict_probs, window_starts
from stal_nb.runtime.errors import ConfigError, DataError
from together import spawn


class PixelNetwork(nn.Module):
    "Judges each pixel by its colour alone, and notes what it was shown."

    def __init__(self, num_classes=19):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, num_classes, 1)
        nn.init.normal_(self.layer.weight, std=4)
        self.seen = []

    def forward(self, images, with_embeddings=True):
        self.seen.append(tuple(images.shape))
        return SegmentationOutput(self.layer(images), None, None)


class PlaceNetwork(nn.Module):
    "Says where in its view a pixel stands: every view and every window gives other answers."

    def forward(self, images, with_embeddings=True):
        height, width = images.shape[-2:]
        y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-2, 2, width)
        maps = [images[:, 0] * 3 + x, images[:, 1] * 3 + y, images[:, 2] - x * y]
        return SegmentationOutput(torch.stack(maps, 1), None, None)


class Pictures(Dataset):
    "Random pictures; the tenth has another size. Counts how many are held in memory."

    def __init__(self, length, broken=()):
        self.length, self.broken, self.alive, self.most = length, broken, weakref.WeakSet(), 0

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index in self.broken:
            raise DataError(f"picture {index}: found damage")
        generator = torch.Generator().manual_seed(index)
        size = (24, 40) if index % 10 == 9 else (32, 48)
        image, labels = torch.rand(3, *size, generator=generator), torch.randint(0, 19, size, generator=generator)
        labels[:2] = IGNORE
        self.alive.add(image)
        self.most = max(self.most, len(self.alive))
        return Sample(image, labels, str(index), "")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return DeepLabV3Plus("mobilenet_v3_small", 5, embedding_dim=8, weights=None, aspp_channels=16).eval()


# -- one view ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eval_size", [None, (64, 96), (40, 70)])
def test_a_single_view_is_the_plain_prediction(network, eval_size):
    images = torch.rand(2, 3, 64, 96)
    expected = predict_logits(network, images, eval_size).softmax(1)
    assert torch.equal(predict_probs(network, images, eval_size), expected)
    assert torch.equal(predict_probs(network, images, eval_size, window=(64, 96)), expected)  # a window as large as the image is the image
    assert torch.equal(predict_probs(network, images, eval_size, window=(1000, 96)), expected)
    assert expected.requires_grad and not predict_probs(network, images, eval_size).requires_grad


# -- several views -------------------------------------------------------------------------------------------------------------


def slow_views(model, images, scales, flip):
    "View by view, with a list of them."
    found = []
    for scale in scales:
        size = [round(n * scale) for n in images.shape[-2:]]
        for mirrored in ([False, True] if flip else [False]):
            view = F.interpolate(images.flip(3) if mirrored else images, size, mode="bilinear", antialias=True)
            probs = F.interpolate(model(view).logits, images.shape[-2:], mode="bilinear").softmax(1)
            found.append(probs.flip(3) if mirrored else probs)
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("model", [PlaceNetwork(), "network"], ids=["places", "deeplab"])
@pytest.mark.parametrize("scales, flip", [((0.5, 1.0, 1.5), True), ((0.75,), False), ((1.0,), True), ((1.0, 1.0, 0.5), False)])
def test_the_average_over_views_agrees_with_a_list_of_them(network, model, scales, flip):
    model, images = network if model == "network" else model, torch.rand(2, 3, 32, 56)
    found = predict_probs(model, images, scales=scales, flip=flip)
    assert torch.allclose(found, slow_views(model, images, scales, flip), atol=1e-6)
    assert torch.allclose(found.sum(1), torch.ones(2, 32, 56), atol=1e-5) and found.min() >= 0


def test_probabilities_are_averaged_not_logits():
    "Two views of which one is ten times as loud: their mean probability is not what the mean logit says."
    class Loud(nn.Module):
        def forward(self, images, with_embeddings=True):
            loud = images[0, 0, 0, 0] > 0.5
            score = torch.full(images[:, 0].shape, 20.0 if loud else -2.0)
            return SegmentationOutput(torch.stack([score, torch.zeros_like(score)], 1), None, None)
    image = torch.zeros(1, 3, 4, 6)
    image[..., 0] = 1  # loud, and quiet in the mirror
    expected = (1 / (1 + math.exp(-20)) + 1 / (1 + math.exp(2))) / 2
    assert predict_probs(Loud(), image, flip=True)[0, 0].flatten().tolist() == pytest.approx([expected] * 24, abs=1e-6)


def test_a_mirror_image_has_the_mirrored_average(network):
    images = torch.rand(1, 3, 64, 96)
    found = predict_probs(network, images, scales=(1.0, 1.5), flip=True)
    assert torch.allclose(predict_probs(network, images.flip(-1), scales=(1.0, 1.5), flip=True), found.flip(-1), atol=1e-5)


def test_precision_and_device_follow_the_input(network):
    images = torch.rand(1, 3, 32, 64)
    assert predict_probs(PixelNetwork().double(), images.double(), scales=(1.0,), window=(20, 20)).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = predict_probs(network, images, scales=(1.0, 1.5), flip=True)
    assert half.dtype == torch.float32 and torch.allclose(half.sum(1), torch.ones(1, 32, 64), atol=1e-5)


# -- windows -------------------------------------------------------------------------------------------------------------------


def slow_windows(model, images, window, overlap):
    "Pixel by pixel: the mean over the windows that hold it."
    (height, width), (h, w) = images.shape[-2:], window
    views = [(top, left, model(images[..., top:top + h, left:left + w]).logits.softmax(1))
             for top in window_starts(height, h, overlap) for left in window_starts(width, w, overlap)]
    result = torch.empty(len(images), views[0][2].shape[1], height, width)
    for y in range(height):
        for x in range(width):
            result[..., y, x] = torch.stack([probs[..., y - top, x - left] for top, left, probs in views
                                             if top <= y < top + h and left <= x < left + w]).mean(0)
    return result


@pytest.mark.parametrize("window, overlap", [((8, 8), 0.5), ((7, 11), 0.3), ((16, 9), 0.0), ((5, 24), 0.8)])
def test_windows_agree_with_a_mean_at_each_pixel(window, overlap):
    images = torch.rand(2, 3, 16, 24)
    found = predict_probs(PlaceNetwork(), images, window=window, overlap=overlap)
    assert torch.allclose(found, slow_windows(PlaceNetwork(), images, window, overlap), atol=1e-6)


@pytest.mark.parametrize("window, overlap", [((8, 8), 0.5), ((10, 300), 0.25), ((31, 7), 0.9)])
def test_a_network_that_looks_at_single_pixels_does_not_notice_windows(window, overlap):
    model, images = PixelNetwork(), torch.rand(1, 3, 32, 45)
    whole = predict_probs(model, images)
    assert torch.allclose(predict_probs(model, images, window=window, overlap=overlap, flip=True), whole, atol=1e-6)
    del model.seen[:]
    predict_probs(model, images, window=window, overlap=overlap, scales=(1.0, 2.0))
    assert {shape[2:] for shape in model.seen} == {(min(32, window[0]), min(45, window[1])), (window[0], min(90, window[1]))}  # of the resized image


def test_windows_over_a_resized_image_come_back_to_its_size():
    found = predict_probs(PlaceNetwork(), torch.rand(1, 3, 20, 30), eval_size=(41, 77), window=(16, 32))
    assert found.shape == (1, 3, 20, 30) and torch.allclose(found.sum(1), torch.ones(1, 20, 30), atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 7, 8, 33])
@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_windows_cover_every_pixel_and_nothing_else(length, overlap):
    for window in range(1, length + 1):
        starts = window_starts(length, window, overlap)
        covered = {pixel for start in starts for pixel in range(start, start + window)}
        assert covered == set(range(length)) and starts == sorted(set(starts))
        step = max(1, round(window * (1 - overlap)))
        assert all(b - a <= step for a, b in zip(starts, starts[1:])) and len(starts) == math.ceil((length - window) / step) + 1


@pytest.mark.parametrize("options, words", [
    (dict(scales=()), r"scales: found \(\), expected one or more positive numbers"),
    (dict(scales=(1.0, 0.0)), "scales: found"),
    (dict(window=(0, 8)), r"window: found \(0, 8\), expected a height and a width in pixels"),
    (dict(window=(8,)), "window: found"),
    (dict(overlap=1.0), "overlap: found 1.0, expected a number from 0 up to 1"),
    (dict(overlap=-0.1), "overlap: found -0.1"),
])
def test_views_that_cannot_work_are_named(options, words):
    with pytest.raises(ConfigError, match=words):
        predict_probs(PixelNetwork(), torch.rand(1, 3, 8, 8), **options)


# -- measuring -----------------------------------------------------------------------------------------------------------------


def test_a_measurement_is_that_of_the_probabilities():
    model, pictures = PlaceNetwork(), Pictures(12)
    class Nineteen(nn.Module):
        def forward(self, images, with_embeddings=True):
            return SegmentationOutput(F.pad(model(images).logits, (0, 0, 0, 0, 0, 16), value=-9.0), None, None)
    options = dict(scales=(0.5, 1.0), flip=True, window=(20, 20), overlap=0.25)
    found = evaluate(Nineteen(), pictures, CITYSCAPES, bar=False, eval_size=(30, 44), **options)
    expected = torch.zeros(19, 19, dtype=torch.int64)
    for k in range(12):
        sample = pictures[k]
        ids = predict_probs(Nineteen(), sample.image[None], (30, 44), **options).argmax(1)[0]
        for t, p in zip(sample.labels.flatten().tolist(), ids.flatten().tolist()):
            if t != IGNORE:
                expected[t, p] += 1
    assert torch.equal(found.confusion, expected)


def test_one_view_is_measured_as_before_and_the_mode_is_kept(network):
    class Nineteen(PixelNetwork):
        pass
    model, pictures = Nineteen().train(), Pictures(7)
    plain = evaluate(model, pictures, CITYSCAPES, bar=False)
    assert model.training
    assert torch.equal(plain.confusion, evaluate(model, pictures, CITYSCAPES, bar=False, scales=[1], window=(99, 99)).confusion)
    with pytest.raises(DataError, match="picture 3: found damage"):
        evaluate(model, Pictures(7, broken=(3,)), CITYSCAPES, bar=False)
    assert model.training  # also after an error


def test_memory_does_not_grow_with_the_number_of_images():
    most = {}
    for length in (6, 60):
        pictures = Pictures(length)
        evaluate(PixelNetwork(), pictures, CITYSCAPES, bar=False, batch_size=3, scales=(1.0, 0.5))
        most[length] = pictures.most
    assert most[60] <= most[6] + 1 <= 8  # a batch, and the one that is being made


def test_batches_are_of_one_size():
    sizes = [[tuple(s.image.shape) for s in batch] for batch in same_size_batches(Pictures(21), range(21), 4)]
    assert all(len(set(batch)) == 1 and len(batch) <= 4 for batch in sizes) and sum(map(len, sizes)) == 21


# -- several processes ---------------------------------------------------------------------------------------------------------

CASES = {"odd": (Pictures(7), {}), "one image": (Pictures(1), {}), "none": (Pictures(0), {}), "limit": (Pictures(9), dict(limit=5)),
         "views": (Pictures(5), dict(scales=(0.5, 1.0), flip=True, window=(16, 16))), "alone": (Pictures(5), dict(processes=False))}


def measuring_process(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = {}
    for name, (pictures, options) in CASES.items():
        model = PixelNetwork()
        found[name] = evaluate(model, pictures, CITYSCAPES, bar=False, batch_size=2, **options).confusion
        found[f"{name} seen"] = torch.tensor(sum(shape[0] for shape in model.seen))
    messages = []
    for broken in ((3,), (2, 3)):  # on the second process; on both
        try:
            evaluate(PixelNetwork(), Pictures(6, broken), CITYSCAPES, bar=False)
        except DataError as error:
            messages.append(str(error))
    found["after"] = evaluate(PixelNetwork(), Pictures(3), CITYSCAPES, bar=False).confusion  # an error leaves the processes in step
    torch.save({"found": found, "messages": messages}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_a_measurement_shared_by_two_processes_is_that_of_one(tmp_path):
    "Every image is counted once, for any number of them; both get the result; an error on one of them reaches both."
    spawn(measuring_process, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, (pictures, options) in CASES.items():
        expected = evaluate(PixelNetwork(), pictures, CITYSCAPES, bar=False, **options).confusion
        assert torch.equal(first["found"][name], expected) and torch.equal(second["found"][name], expected), name
    shares = {name: (int(first["found"][f"{name} seen"]), int(second["found"][f"{name} seen"])) for name in CASES if name != "views"}
    assert shares == {"odd": (4, 3), "one image": (1, 0), "none": (0, 0), "limit": (3, 2), "alone": (5, 5)}
    assert first["messages"][0] == "evaluate: found 1 of 2 processes that failed, expected none; their own messages say why"
    assert second["messages"][0] == "picture 3: found damage"
    assert [first["messages"][1], second["messages"][1]] == ["picture 2: found damage", "picture 3: found damage"]
    assert torch.equal(first["found"]["after"], evaluate(PixelNetwork(), Pictures(3), CITYSCAPES, bar=False).confusion)
