"""Confusion, IoU and mIoU: right by a slow count and by torchmetrics, independent of batches and order, strict about their input."""
import pickle

import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from stal_nb.labels import CAMVID, CITYSCAPES, IGNORE, SYNTHIA, LabelSpace
from stal_nb.metrics import (
    SYNTHIA_13,
    SegmentationMetrics,
    benchmark_miou,
    boundary_band,
    confusion_counts,
    iou_per_class,
    pixel_accuracy,
    predicted_ids,
    recall_per_class,
)
from stal_nb.runtime.errors import ConfigError, DataError, LabelError

TWO = LabelSpace("two", ("a", "b"), ((0, 0, 0), (255, 255, 255)))


def random_maps(batch=3, size=(9, 11), num_classes=19, ignored=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, num_classes, (batch, *size), generator=generator)
    other = torch.randint(0, num_classes, ids.shape, generator=generator)
    labels = torch.where(torch.rand(ids.shape, generator=generator) < 0.5, ids, other)
    return ids, labels.masked_fill(torch.rand(ids.shape, generator=generator) < ignored, IGNORE)


def measured(ids, labels, space=CITYSCAPES):
    metrics = SegmentationMetrics(space)
    metrics.update(ids, labels)
    return metrics.compute()


@pytest.mark.parametrize("space", [CITYSCAPES, CAMVID, TWO], ids=lambda s: s.name)
def test_it_counts_like_a_loop(space):
    ids, labels = random_maps(num_classes=space.num_classes)
    expected = torch.zeros(space.num_classes, space.num_classes, dtype=torch.int64)
    for t, p in zip(labels.flatten().tolist(), ids.flatten().tolist()):
        if t != IGNORE:
            expected[t, p] += 1
    found = measured(ids, labels, space)
    assert torch.equal(found.confusion, expected)
    for c, name in enumerate(space.classes):
        tp = int(expected[c, c])
        fp, fn = int(expected[:, c].sum()) - tp, int(expected[c].sum()) - tp
        assert found.iou[name] == pytest.approx(100 * tp / (tp + fp + fn), abs=1e-9)
        assert found.recall[name] == pytest.approx(100 * tp / (tp + fn), abs=1e-9)
    assert found.miou == pytest.approx(sum(found.iou.values()) / space.num_classes)
    assert found.pixel_accuracy == pytest.approx(100 * int(expected.diag().sum()) / int(expected.sum()))


def test_it_agrees_with_torchmetrics_over_many_batches():
    ours, theirs = SegmentationMetrics(CITYSCAPES), MulticlassJaccardIndex(num_classes=19, ignore_index=IGNORE, average=None)
    mean = MulticlassJaccardIndex(num_classes=19, ignore_index=IGNORE)
    for seed in range(5):
        ids, labels = random_maps(seed=seed)
        ours.update(ids, labels)
        theirs.update(ids, labels)
        mean.update(ids, labels)
    found = ours.compute()
    assert torch.allclose(torch.tensor(list(found.iou.values())), 100 * theirs.compute(), atol=1e-3)
    assert found.miou == pytest.approx(100 * mean.compute().item(), abs=1e-3)


def test_each_image_is_counted_apart():
    ids, labels = random_maps(batch=4)
    together = confusion_counts(ids, labels, 19)
    assert torch.equal(together, torch.cat([confusion_counts(ids[k:k + 1], labels[k:k + 1], 19) for k in range(4)]))
    assert torch.equal(iou_per_class(together[:, :19, :19])[2].nan_to_num(-1), iou_per_class(together[2, :19, :19]).nan_to_num(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_logits_of_any_precision_and_labels_of_any_integer_type(dtype):
    ids, labels = random_maps()
    logits = torch.nn.functional.one_hot(ids, 19).movedim(-1, 1).to(dtype) * 3 - 1
    expected = measured(ids, labels).confusion
    assert torch.equal(measured(logits, labels).confusion, expected)
    for integer in (torch.uint8, torch.int16, torch.int32):
        assert torch.equal(measured(ids.to(integer), labels.to(integer)).confusion, expected)


def test_probabilities_score_like_their_logits_and_carry_no_graph():
    ids, labels = random_maps(size=(8, 8))
    logits = torch.randn(3, 19, 8, 8, requires_grad=True)
    metrics = SegmentationMetrics(CITYSCAPES)
    metrics.update(logits, labels)
    assert not metrics.counts.requires_grad
    assert torch.equal(metrics.compute().confusion, measured(logits.softmax(1), labels).confusion)
    assert torch.equal(predicted_ids(logits), logits.argmax(1))


def test_a_transposed_memory_layout_changes_nothing():
    _, labels = random_maps(size=(8, 16))
    logits = torch.randn(3, 19, 8, 16)
    expected = measured(logits, labels).confusion
    assert torch.equal(measured(logits.to(memory_format=torch.channels_last), labels).confusion, expected)
    assert torch.equal(measured(logits.transpose(2, 3).contiguous().transpose(2, 3), labels.mT.contiguous().mT).confusion, expected)


def test_absent_classes_are_not_measured():
    found = measured(torch.tensor([[[0, 1, 0, 0]]]), torch.tensor([[[0, 0, 0, 0]]]), TWO)
    assert found.iou["a"] == 75 and found.iou["b"] != found.iou["b"] and found.miou == 75
    assert found.recall["b"] != found.recall["b"]


def test_nothing_counted_is_nan_not_an_error():
    empty = SegmentationMetrics(TWO).compute()
    assert empty.miou != empty.miou and empty.pixel_accuracy != empty.pixel_accuracy
    ignored = measured(torch.zeros(1, 2, 2, dtype=torch.int64), torch.full((1, 2, 2), IGNORE), TWO)
    assert ignored.miou != ignored.miou and ignored.confusion.sum() == 0
    assert measured(torch.zeros(0, 2, 2, dtype=torch.int64), torch.zeros(0, 2, 2, dtype=torch.int64), TWO).confusion.sum() == 0


def test_what_is_predicted_at_ignored_pixels_does_not_matter():
    ids, labels = random_maps(ignored=0.5)
    nonsense = torch.where(labels == IGNORE, 1000, ids)
    assert torch.equal(measured(nonsense, labels).confusion, measured(ids, labels).confusion)


def test_a_subset_averages_the_same_scores():
    metrics = SegmentationMetrics(CITYSCAPES)
    metrics.update(*random_maps())
    everything, some = metrics.compute(), metrics.compute(SYNTHIA_13)
    assert len(SYNTHIA_13) == 13 and set(some.iou) == set(SYNTHIA_13) < set(SYNTHIA.classes)
    assert some.iou == {c: everything.iou[c] for c in SYNTHIA_13}
    assert some.miou == pytest.approx(sum(some.iou.values()) / 13)
    assert torch.equal(some.confusion, everything.confusion) and some.pixel_accuracy == everything.pixel_accuracy
    assert metrics.compute([13, "road"]).iou == {"car": everything.iou["car"], "road": everything.iou["road"]}
    for wrong, words in ((["zebra"], "found 'zebra'"), ([19], "found id 19, expected 0 to 18"), ([], "found an empty list")):
        with pytest.raises(ConfigError, match=words):
            metrics.compute(wrong)


def by_hand(iou, classes):
    return sum(iou[c] for c in classes) / len(classes)


def test_the_literatures_means_of_a_matrix_made_by_hand():
    "Class k: k + 1 pixels right; one truck, one train and one wall pixel are taken for a car."
    confusion = torch.diag(torch.arange(1, 20))
    at = CITYSCAPES.index
    for name in ("truck", "train", "wall"):
        confusion[at(name), at("car")] += 1
    iou = {name: 1.0 for name in CITYSCAPES.classes}
    for name in ("truck", "train", "wall"):
        iou[name] = (at(name) + 1) / (at(name) + 2)
    iou["car"] = (at("car") + 1) / (at("car") + 1 + 3)
    sixteen = [c for c in CITYSCAPES.classes if c not in ("terrain", "truck", "train")]
    thirteen = [c for c in sixteen if c not in ("wall", "fence", "pole")]
    found = benchmark_miou(confusion, CITYSCAPES)
    assert list(found) == ["miou", "miou_16", "miou_13"] and (len(sixteen), len(thirteen)) == (16, 13)
    assert found["miou"] == pytest.approx(100 * by_hand(iou, CITYSCAPES.classes))
    assert found["miou_16"] == pytest.approx(100 * by_hand(iou, sixteen))
    assert found["miou_13"] == pytest.approx(100 * by_hand(iou, thirteen))  # without trucks, and the car still pays for them


def test_the_means_are_the_same_from_a_matrix_a_metric_and_its_scores():
    metrics = SegmentationMetrics(CITYSCAPES)
    metrics.update(*random_maps())
    scores = metrics.compute()
    found = benchmark_miou(metrics, CITYSCAPES)
    assert found == benchmark_miou(scores, CITYSCAPES) == benchmark_miou(scores.confusion, CITYSCAPES)
    assert found == {"miou": scores.miou, "miou_16": pytest.approx(metrics.compute(SYNTHIA.classes).miou),
                     "miou_13": pytest.approx(metrics.compute(SYNTHIA_13).miou)}


def test_only_means_that_apply_to_the_label_space():
    assert list(benchmark_miou(torch.eye(11), CAMVID)) == ["miou"]
    synthia = torch.diag(torch.ones(16))
    synthia[SYNTHIA.index("wall"), SYNTHIA.index("car")] = 1
    found = benchmark_miou(synthia, SYNTHIA)
    assert found["miou"] == found["miou_16"] == pytest.approx(100 * (14 + 1 / 2 + 1 / 2) / 16)
    assert found["miou_13"] == pytest.approx(100 * (12 + 1 / 2) / 13)
    for shape in ((16, 16), (20, 20), (19,)):
        with pytest.raises(ConfigError, match=r"measured: found a confusion matrix of shape .* expected 19 × 19 for cityscapes"):
            benchmark_miou(torch.zeros(shape), CITYSCAPES)


def test_classes_that_do_not_occur_are_left_out_of_every_mean():
    confusion = torch.zeros(19, 19)
    confusion[CITYSCAPES.index("road"), CITYSCAPES.index("road")] = 3
    confusion[CITYSCAPES.index("truck"), CITYSCAPES.index("road")] = 1
    found = benchmark_miou(confusion, CITYSCAPES)
    assert found == {"miou": pytest.approx(100 * (3 / 4 + 0) / 2), "miou_16": pytest.approx(75.0), "miou_13": pytest.approx(75.0)}
    empty = benchmark_miou(torch.zeros(19, 19), CITYSCAPES)
    assert all(value != value for value in empty.values())


def test_metrics_of_processes_add_up():
    ids, labels = random_maps(batch=6)
    parts = []
    for k in range(3):
        part = SegmentationMetrics(CITYSCAPES)
        part.update(ids[2 * k:2 * k + 2], labels[2 * k:2 * k + 2])
        parts.append(pickle.loads(pickle.dumps(part)))  # as sent from another process
    idle = SegmentationMetrics(CITYSCAPES)  # a process that got no image
    total = parts[0] + parts[1] + parts[2] + idle
    assert torch.equal(total.compute().confusion, measured(ids, labels).confusion)
    before = parts[1].counts.clone()
    parts[0].merge(parts[1]).merge(parts[2])
    assert torch.equal(parts[0].counts, total.counts) and torch.equal(parts[1].counts, before)
    total.reset()
    assert total.counts.sum() == 0 and torch.equal(parts[0].counts.sum(), (labels != IGNORE).sum())
    with pytest.raises(ConfigError, match="found metrics of camvid and cityscapes"):
        parts[0].merge(SegmentationMetrics(CAMVID))


def test_its_memory_does_not_grow():
    metrics = SegmentationMetrics(CITYSCAPES)
    for seed in range(3):
        metrics.update(*random_maps(seed=seed))
        assert metrics.counts.shape == (20, 20) and metrics.counts.dtype == torch.int64
    assert [name for name, value in vars(metrics).items() if torch.is_tensor(value)] == ["counts"]


@pytest.mark.parametrize("form", ["logits", "ids"])
def test_updating_needs_no_value(form):
    "On the meta device tensors have no content: whatever would wait for a GPU fails there."
    metrics = SegmentationMetrics(CITYSCAPES)
    labels = torch.empty(2, 16, 16, dtype=torch.int64, device="meta")
    for _ in range(2):
        metrics.update(torch.empty(2, 19, 16, 16, device="meta") if form == "logits" else labels, labels)
    assert metrics.counts.device.type == "meta"
    assert boundary_band(labels, 2).shape == labels.shape


@pytest.mark.parametrize("labels_at, ids_at, words", [
    (19, 0, "labels: found 1 pixels with an id that is no class, expected 0 to 18 .cityscapes. or 255"),
    (-1, 0, "labels: found 1 pixels"),
    (254, 0, "labels: found 1 pixels"),
    (0, 19, "predictions: found 1 pixels"),
    (0, -3, "predictions: found 1 pixels"),
    (0, 255, "predictions: found 1 pixels .* label them 255"),
])
def test_unknown_ids_are_reported_at_the_end(labels_at, ids_at, words):
    ids, labels = torch.zeros(1, 2, 3, dtype=torch.int64), torch.zeros(1, 2, 3, dtype=torch.int64)
    labels[0, 1, 1], ids[0, 1, 1] = labels_at, ids_at
    metrics = SegmentationMetrics(CITYSCAPES)
    metrics.update(ids, labels)
    with pytest.raises(LabelError, match=words):
        metrics.compute()


def test_a_diverged_network_is_noticed():
    logits = torch.zeros(1, 19, 4, 4)
    logits[0, 7, 1, 2] = torch.nan
    metrics = SegmentationMetrics(CITYSCAPES)
    metrics.update(logits, torch.zeros(1, 4, 4, dtype=torch.int64))
    with pytest.raises(LabelError, match="found 1 pixels .* NaN logits"):
        metrics.compute()


@pytest.mark.parametrize("prediction, labels, error, words", [
    (torch.zeros(1, 19, 4, 4), torch.zeros(1, 8, 8, dtype=torch.int64), DataError, r"found shape \(1, 19, 4, 4\) for labels \(1, 8, 8\)"),
    (torch.zeros(1, 11, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64), DataError, r"expected \(B,19,H,W\)"),
    (torch.zeros(2, 19, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64), DataError, "logits: found shape"),
    (torch.zeros(1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64), DataError, "logits: found shape"),
    (torch.zeros(4, 4, dtype=torch.int64), torch.zeros(4, 4, dtype=torch.int64), LabelError, r"expected \(B,H,W\) twice"),
    (torch.zeros(1, 4, 5, dtype=torch.int64), torch.zeros(1, 4, 4, dtype=torch.int64), LabelError, "found shapes"),
    (torch.zeros(1, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.int64), LabelError, "ids: found dtype torch.bool"),
    (torch.zeros(1, 4, 4, dtype=torch.int64), torch.zeros(1, 4, 4), LabelError, "labels: found dtype torch.float32"),
    (torch.zeros(1, 19, 4, 4), torch.zeros(1, 4, 4), LabelError, "labels: found dtype torch.float32"),
])
def test_shapes_and_types_are_checked_at_once(prediction, labels, error, words):
    metrics = SegmentationMetrics(CITYSCAPES)
    with pytest.raises(error, match=words):
        metrics.update(prediction, labels)
    assert metrics.counts.sum() == 0  # a refused batch leaves no trace


def test_num_classes_leaves_255_free():
    ids = torch.zeros(1, 1, 1, dtype=torch.int64)
    assert confusion_counts(ids, ids, 255).shape == (1, 256, 256)
    for wrong in (0, 256):
        with pytest.raises(ConfigError, match=f"num_classes: found {wrong}"):
            confusion_counts(ids, ids, wrong)


@pytest.mark.parametrize("radius", [1, 2, 5])
def test_the_boundary_band_is_what_a_loop_finds(radius):
    generator = torch.Generator().manual_seed(radius)
    labels = torch.randint(0, 3, (2, 4, 5), generator=generator).repeat_interleave(4, 1).repeat_interleave(5, 2)
    labels[:, 3:7, 8:14] = IGNORE
    labels[1, 9:, :] = 18
    found = boundary_band(labels, radius)
    for b in range(2):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                window = labels[b, max(0, y - radius):y + radius + 1, max(0, x - radius):x + radius + 1]
                expected = labels[b, y, x] != IGNORE and len(window[window != IGNORE].unique()) > 1
                assert found[b, y, x] == expected, (b, y, x)
    with pytest.raises(ConfigError, match="radius: found 0"):
        boundary_band(labels, 0)


def test_scores_of_a_matrix_by_hand():
    n = torch.tensor([[5, 1, 0], [2, 2, 0], [0, 0, 0]])
    assert iou_per_class(n)[:2].tolist() == [5 / 8, 2 / 5] and iou_per_class(n)[2].isnan()
    assert recall_per_class(n)[:2].tolist() == [5 / 6, 2 / 4] and recall_per_class(n)[2].isnan()
    assert pixel_accuracy(n).item() == 7 / 10
