"""Mixing agrees with slow plain versions, on any shape and type, without looking at a value, and refuses what cannot be mixed."""
import numpy as np
import pytest
import torch
from scipy import ndimage

from figures.mixing import by_distance, distance_to_box, partner_odds, spiral
from stal_nb.labels import IGNORE
from stal_nb.mixing import (
    CutMixTable,
    box_mask,
    class_boxes,
    connected_regions,
    copy_paste,
    count_in_cells,
    cutmix,
    draw_region,
    paste_mask,
    region_boxes,
)
from stal_nb.runtime.errors import ConfigError
from stal_nb.runtime.ops import draw_weighted
from stal_nb.scenes import SceneDataset

EIGHT = np.ones((3, 3), int)  # neighbours at edges and corners


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def random_labels(generator, batch, height, width, classes=5, block=6):
    "Patches of random classes, some ignored pixels."
    coarse = torch.randint(0, classes, (batch, -(-height // block), -(-width // block)), generator=generator)
    labels = coarse.repeat_interleave(block, 1).repeat_interleave(block, 2)[:, :height, :width].clone()
    return labels.masked_fill(torch.rand(labels.shape, generator=generator) < 0.05, IGNORE)


def same_partition(a, b):
    pairs = set(zip(np.asarray(a).ravel().tolist(), np.asarray(b).ravel().tolist()))
    return len(pairs) == len({p[0] for p in pairs}) == len({p[1] for p in pairs})


def maze(rng, height, width):
    "A perfect maze on odd cells: one region, long winding corridors, many dead ends."
    mask = np.zeros((height, width), bool)
    mask[0, 0] = True
    stack = [(0, 0)]
    while stack:
        y, x = stack[-1]
        ways = [(a, b) for a, b in ((y - 2, x), (y + 2, x), (y, x - 2), (y, x + 2))
                if 0 <= a < height and 0 <= b < width and not mask[a, b]]
        if not ways:
            stack.pop()
            continue
        a, b = ways[rng.integers(len(ways))]
        mask[a, b] = mask[(a + y) // 2, (b + x) // 2] = True
        stack.append((a, b))
    return mask


# -- drawing ---------------------------------------------------------------------------------------------------------------------------


def test_draws_follow_the_weights(generator):
    weights = torch.tensor([[0.0, 1.0, 2.0, 5.0], [1e-6, 0.0, 0.0, 3e-6]])
    draws = torch.stack([draw_weighted(weights, generator) for _ in range(4000)])
    shares = torch.stack([draws[:, k].bincount(minlength=4) / len(draws) for k in range(2)])
    assert torch.allclose(shares, weights / weights.sum(1, keepdim=True), atol=0.03)
    assert shares[0, 0] == 0 and (shares[1, 1:3] == 0).all()


def test_the_same_seed_draws_the_same():
    labels = random_labels(torch.Generator().manual_seed(1), 4, 64, 96)
    one, two = (class_boxes(labels, torch.arange(4), torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two)


# -- copy-paste ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_copy_paste_agrees_with_a_loop_over_pixels(generator, dtype):
    labels, other_labels = random_labels(generator, 3, 13, 17), random_labels(generator, 3, 13, 17)
    image, other = (torch.randint(0, 255, (3, 3, 13, 17), generator=generator).to(dtype) for _ in range(2))
    classes = torch.rand(3, 5, generator=generator) < 0.4
    mixed, mixed_labels = copy_paste(image, labels, other, other_labels, classes)
    assert mixed.dtype == dtype and mixed_labels.dtype == labels.dtype
    for b in range(3):
        for y in range(13):
            for x in range(17):
                c = int(other_labels[b, y, x])
                from_other = c != IGNORE and bool(classes[b, c])
                source, ids = (other, other_labels) if from_other else (image, labels)
                assert torch.equal(mixed[b, :, y, x], source[b, :, y, x]) and mixed_labels[b, y, x] == ids[b, y, x]


def test_copy_paste_leaves_its_inputs_alone(generator):
    inputs = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long), torch.ones(1, 3, 4, 4), torch.ones(1, 4, 4, dtype=torch.long)
    before = [t.clone() for t in inputs]
    copy_paste(*inputs, torch.ones(1, 3, dtype=torch.bool))
    assert all(torch.equal(a, b) for a, b in zip(inputs, before))


def test_ignored_pixels_are_never_pasted_even_with_255_classes():
    assert not paste_mask(torch.full((1, 2, 2), IGNORE), torch.ones(1, 255, dtype=torch.bool)).any()


@pytest.mark.parametrize("change, message", [
    (dict(paste_image=torch.zeros(2, 3, 8, 9)), "paste_image: found torch.float32"),
    (dict(paste_image=torch.zeros(2, 3, 8, 8, dtype=torch.float16)), "paste_image: found torch.float16"),
    (dict(paste_labels=torch.zeros(2, 8, 8, dtype=torch.int32)), "paste_labels: found torch.int32"),
    (dict(image=torch.zeros(2, 3, 4, 4), paste_image=torch.zeros(2, 3, 4, 4)), "paste_image: found shape"),
    (dict(classes=torch.zeros(3, 19, dtype=torch.bool)), "classes: found torch.bool (3, 19)"),
    (dict(classes=torch.zeros(2, 19)), "classes: found torch.float32"),
    (dict(classes=torch.zeros(2, 256, dtype=torch.bool)), "classes: found torch.bool (2, 256)"),
])
def test_copy_paste_refuses_what_does_not_fit(change, message):
    good = dict(image=torch.zeros(2, 3, 8, 8), labels=torch.zeros(2, 8, 8, dtype=torch.long), paste_image=torch.zeros(2, 3, 8, 8),
                paste_labels=torch.zeros(2, 8, 8, dtype=torch.long), classes=torch.zeros(2, 19, dtype=torch.bool))
    with pytest.raises(ConfigError) as error:
        copy_paste(**{**good, **change})
    assert message in str(error.value)


# -- the table -------------------------------------------------------------------------------------------------------------------------


def test_the_table_agrees_with_counting(generator):
    table, by_hand = CutMixTable(9, 5, min_pixels=40), np.zeros((9, 5), bool)
    for _ in range(20):
        indices, labels = torch.randint(0, 9, (6,), generator=generator), random_labels(generator, 6, 16, 16, block=5)
        table.update(indices, labels)
        for index in set(indices.tolist()):
            looks = [labels[k] for k in range(6) if indices[k] == index]
            by_hand[index] = [any(int((look == c).sum()) >= 40 for look in looks) for c in range(5)]
        assert (table.present.numpy() == by_hand).all()


def test_the_table_offers_only_images_known_to_show_the_class(generator):
    table = CutMixTable(50, 3)
    table.present[[7, 21, 40], 1] = True
    draws = torch.cat([table.draw(torch.tensor([1, 2]), generator)[None] for _ in range(600)])
    assert set(draws[:, 0].tolist()) == {7, 21, 40}
    assert len(set(draws[:, 1].tolist())) > 40  # nothing known: any image


def test_the_table_works_empty_and_is_saved():
    table = CutMixTable(0, 19)
    table.update(torch.zeros(0, dtype=torch.long), torch.zeros(0, 8, 8, dtype=torch.long))
    full = CutMixTable(2, 19)
    full.update(torch.tensor([1]), torch.full((1, 8, 8), 3))
    other = CutMixTable(2, 19)
    other.load_state_dict(full.state_dict())
    assert other.present.tolist() == full.present.tolist() and other.present[1, 3]


def test_the_table_refuses_what_does_not_fit():
    with pytest.raises(ConfigError, match="num_images, num_classes, min_pixels: found -1"):
        CutMixTable(-1, 19)
    with pytest.raises(ConfigError, match="indices, labels: found shapes"):
        CutMixTable(4, 19).update(torch.tensor([1, 2]), torch.zeros(1, 8, 8, dtype=torch.long))


# -- regions ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height, width", [(1, 1), (1, 40), (32, 64), (45, 31), (128, 128)])
def test_regions_agree_with_scipy_on_noise(generator, height, width):
    masks = torch.cat([torch.rand(6, height, width, generator=generator) < p for p in (0.2, 0.38, 0.41, 0.45, 0.6, 1.0)])
    for mask, regions in zip(masks.numpy(), connected_regions(masks).numpy()):
        assert same_partition(regions, ndimage.label(mask, EIGHT)[0])
        assert ((regions > 0) == mask).all() and regions.max() <= height * width


def test_regions_agree_with_scipy_on_spirals_combs_and_mazes():
    comb = np.zeros((64, 64), bool)
    comb[:, ::2], comb[0] = True, True
    snake = np.zeros((64, 64), bool)
    snake[::2] = True
    snake[1::4, -1] = snake[3::4, 0] = True
    hardest = [spiral(64, 64).numpy(), comb, snake, *(maze(np.random.default_rng(k), 64, 64) for k in range(12))]
    masks = torch.from_numpy(np.stack([turned for mask in hardest for turned in (mask, mask[::-1], mask[:, ::-1], mask.T)]))
    for rounds in (None, 8):  # 12 by default; 8 are enough
        for mask, regions in zip(masks.numpy(), connected_regions(masks, rounds).numpy()):
            assert same_partition(regions, ndimage.label(mask, EIGHT)[0])


def test_regions_agree_with_scipy_on_every_class_of_scenes():
    for domain in ("sim", "real"):
        labels = torch.stack([SceneDataset(domain, 12, size=(64, 128))[k].labels for k in range(12)])
        for c in range(19):
            masks = labels == c
            for mask, regions in zip(masks.numpy(), connected_regions(masks).numpy()):
                assert same_partition(regions, ndimage.label(mask, EIGHT)[0])


def test_too_few_rounds_leave_parts_and_never_join():
    mask = torch.stack([spiral(32, 64), torch.rand(32, 64, generator=torch.Generator().manual_seed(0)) < 0.41])
    exact = [ndimage.label(m, EIGHT)[0] for m in mask.numpy()]
    for rounds in range(4):
        for regions, truth in zip(connected_regions(mask, rounds).numpy(), exact):
            owner = dict(zip(regions.ravel().tolist(), truth.ravel().tolist()))
            assert all(owner[r] == t for r, t in zip(regions.ravel().tolist(), truth.ravel().tolist()))


# -- boxes -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height, width, stride", [(64, 128, 4), (65, 129, 4), (50, 70, 8), (33, 47, 1)])
def test_counts_in_cells_agree_with_a_loop(generator, height, width, stride):
    labels = random_labels(generator, 3, height, width)
    classes = torch.tensor([0, 3, -1])
    counts = count_in_cells(labels, classes, stride)
    assert counts.shape == (3, -(-height // stride), -(-width // stride))
    for b in range(3):
        for i in range(counts.shape[1]):
            for j in range(counts.shape[2]):
                cell = labels[b, i * stride:(i + 1) * stride, j * stride:(j + 1) * stride]
                assert counts[b, i, j] == (cell == classes[b]).sum()


@pytest.mark.parametrize("height, width, stride, min_size", [
    (64, 128, 4, 32), (65, 129, 4, 30), (97, 61, 4, 1), (40, 40, 8, 100), (33, 47, 1, 9)])
def test_a_box_is_the_plain_bounding_box_grown_to_its_smallest_size(generator, height, width, stride, min_size):
    labels = random_labels(generator, 40, height, width)
    classes = torch.randint(0, 5, (40,), generator=generator)
    region = draw_region(count_in_cells(labels, classes, stride), generator)
    boxes = region_boxes(region, (height, width), stride, min_size).tolist()
    for cells, (y0, x0, y1, x1), c, ids in zip(region.numpy(), boxes, classes, labels):
        assert (cells == (ndimage.label(cells, EIGHT)[0] == 1)).all()  # one region
        for a, b, pixels, line in ((y0, y1, height, cells.any(1)), (x0, x1, width, cells.any(0))):
            first, last = np.flatnonzero(line)[[0, -1]]
            assert 0 <= a <= first * stride and min((last + 1) * stride, pixels) <= b <= pixels
            assert a % stride == 0 and (b % stride == 0 or b == pixels)
            assert b - a >= min(min_size, pixels)
            if (last + 1 - first) * stride >= min_size + stride:  # large enough already: not grown
                assert (a, b) == (first * stride, min((last + 1) * stride, pixels))
        assert (ids[y0:y1, x0:x1] == c).any()


def test_the_box_contains_the_whole_pixel_region(generator):
    for size, stride in (((64, 128), 4), ((61, 99), 4), ((61, 99), 8)):
        labels = random_labels(generator, 1, *size, block=3)[0]
        for c in range(5):
            numbers, count = ndimage.label(labels.numpy() == c, EIGHT)
            for y0, x0, y1, x1 in class_boxes(labels.expand(20, -1, -1), torch.full((20,), c), generator, stride, 1).tolist():
                cut = numbers[y0:y1, x0:x1]
                assert any((numbers == k).sum() == (cut == k).sum() for k in np.unique(cut[cut > 0]))


def test_a_large_region_is_drawn_in_proportion_to_its_pixels(generator):
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    labels[0, 3:9, 2:10], labels[0, 40:52, 30:54] = 1, 1  # 48 and 288 pixels
    boxes = class_boxes(labels.expand(3000, -1, -1), torch.ones(3000, dtype=torch.long), generator, min_size=1)
    assert abs((boxes[:, 0] >= 40).float().mean() - 288 / 336) < 0.025


def test_absent_unwanted_and_ignored_classes_get_an_empty_box(generator):
    labels = torch.zeros(3, 32, 32, dtype=torch.long)
    labels[2] = IGNORE
    assert class_boxes(labels, torch.tensor([4, -1, IGNORE]), generator).tolist() == [[0, 0, 0, 0]] * 3
    assert class_boxes(labels[:0], torch.zeros(0, dtype=torch.long)).shape == (0, 4)


@pytest.mark.parametrize("call, message", [
    (lambda: class_boxes(torch.zeros(2, 8, 8, dtype=torch.long), torch.tensor([1])), "labels, classes, stride: found shapes"),
    (lambda: class_boxes(torch.zeros(1, 8, 8, dtype=torch.long), torch.tensor([1]), stride=0), "and 0, expected"),
    (lambda: class_boxes(torch.zeros(1, 8, 8, dtype=torch.long), torch.tensor([1]), min_size=0), "min_size: found 0"),
    (lambda: connected_regions(torch.zeros(1, 8, 8)), "mask: found torch.float32"),
    (lambda: connected_regions(torch.zeros(1, 0, 8, dtype=torch.bool)), "at least one cell"),
    (lambda: cutmix(torch.zeros(2, 3, dtype=torch.long)), "boxes: found shape (2, 3)"),
    (lambda: cutmix(torch.zeros(2, 4, dtype=torch.long), (torch.zeros(2, 8, 8), torch.zeros(2, 8, 9))), "pair 0: found"),
    (lambda: cutmix(torch.zeros(2, 4, dtype=torch.long), (torch.zeros(3, 8, 8), torch.zeros(3, 8, 8))), "pair 0: found shape (3, 8, 8)"),
    (lambda: cutmix(torch.zeros(2, 4), (torch.zeros(2, 8, 8), torch.zeros(2, 8, 8, dtype=torch.long))), "pair 0: found torch.int64"),
])
def test_boxes_refuse_what_does_not_fit(call, message):
    with pytest.raises(ConfigError) as error:
        call()
    assert message in str(error.value)


# -- CutMix ----------------------------------------------------------------------------------------------------------------------------


def test_cutmix_agrees_with_slices_on_any_type_and_shape(generator):
    boxes = torch.tensor([[4, 8, 20, 40], [0, 0, 0, 0], [12, 0, 33, 50]])
    fields = [torch.rand(3, 3, 33, 50), torch.randint(0, 9, (3, 33, 50)), torch.rand(3, 33, 50).bfloat16(), torch.rand(3, 33, 50) < 0.5,
              torch.rand(3, 2, 5, 33, 50)]
    for base, mixed in zip(fields, cutmix(boxes, *((f, f.flip(0)) for f in fields))):
        by_hand = base.clone()
        for b, (y0, x0, y1, x1) in enumerate(boxes.tolist()):
            by_hand[b, ..., y0:y1, x0:x1] = base.flip(0)[b, ..., y0:y1, x0:x1]
        assert torch.equal(mixed, by_hand) and mixed.dtype == base.dtype


@pytest.mark.parametrize("height, width, stride", [(128, 256, 4), (129, 193, 4), (769, 769, 4), (61, 50, 8)])
def test_coarse_maps_are_cut_where_the_image_is_cut(generator, height, width, stride):
    labels = random_labels(generator, 4, height, width, block=13)
    boxes = class_boxes(labels, torch.arange(4), generator, stride)
    image, other = torch.zeros(4, height, width), torch.ones(4, height, width)
    small = torch.zeros(4, -(-height // stride), -(-width // stride))
    fine, = cutmix(boxes, (image, other))
    coarse, = cutmix(boxes, (small, small + 1), stride=stride)
    assert torch.equal(coarse, fine[:, ::stride, ::stride])
    assert torch.equal(coarse.repeat_interleave(stride, 1).repeat_interleave(stride, 2)[:, :height, :width], fine)  # no cell is cut through


def test_gradients_flow_to_where_a_pixel_came_from():
    base, other = torch.zeros(1, 4, 4, requires_grad=True), torch.zeros(1, 4, 4, requires_grad=True)
    cutmix(torch.tensor([[1, 1, 3, 3]]), (base, other))[0].sum().backward()
    inside = box_mask(torch.tensor([[1, 1, 3, 3]]), 4, 4).float()
    assert torch.equal(other.grad, inside) and torch.equal(base.grad, 1 - inside)


def test_nothing_looks_at_a_value():
    "On the meta device tensors have no values: whatever would wait for a GPU fails here."
    def empty(*shape, dtype=torch.int64):
        return torch.empty(shape, dtype=dtype, device="meta")

    boxes, embeddings = class_boxes(empty(2, 64, 64), empty(2)), empty(2, 8, 16, 16, dtype=torch.bfloat16)
    assert cutmix(boxes, (embeddings, embeddings), stride=4)[0].shape == (2, 8, 16, 16)
    copy_paste(empty(2, 3, 64, 64), empty(2, 64, 64), empty(2, 3, 64, 64), empty(2, 64, 64), empty(2, 19, dtype=torch.bool))
    table = CutMixTable(8, 19).to("meta")
    table.update(empty(2), empty(2, 64, 64))
    table.draw(empty(2))


def test_distance_to_a_box_agrees_with_a_loop():
    box = torch.tensor([[2, 3, 6, 9]])
    distance = distance_to_box(box, 9, 12)[0]
    for y in range(9):
        for x in range(12):
            assert distance[y, x] == min(y - 2, 5 - y, x - 3, 8 - x)
    where, share = by_distance(distance[None] >= 0, distance[None], reach=2)
    assert where.tolist() == [-2, -1, 0, 1] and share.tolist() == [0, 0, 1, 1]


def test_the_odds_shown_of_a_partner_are_those_of_the_table():
    table = CutMixTable(5, 4)
    table.present[[0, 1], 0] = True  # class 0 in images 0 and 1, class 1 in image 4, classes 2 and 3 nowhere
    table.present[4, 1] = True
    probs = torch.tensor([0.5, 0.3, 0.2, 0.0])
    odds = partner_odds(table.present, probs)
    assert torch.allclose(odds, torch.tensor([0.25 + 0.04, 0.25 + 0.04, 0.04, 0.04, 0.3 + 0.04]))
    generator = torch.Generator().manual_seed(0)
    drawn = table.draw(draw_weighted(probs.expand(40_000, -1), generator), generator).bincount(minlength=5) / 40_000
    assert torch.allclose(drawn, odds, atol=0.01)
