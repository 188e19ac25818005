"""The memory bank is a queue a class, the confidence bank a running mean a class: exact, resumable, and free of waiting."""
import math
import random
from collections import deque
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from torch import distributed

from stal_nb.banks import ClassMemoryBank, ConfidenceBank, class_confidence, confidence_of_right
from stal_nb.labels import IGNORE
from stal_nb.runtime.distributed import gather_entries, joint_batch
from stal_nb.runtime.errors import ConfigError, DataError, LabelError
from together import spawn


class Queues:
    "The slow version: Python's own queues."

    def __init__(self, capacities):
        self.queues = [deque(maxlen=k) for k in capacities]

    def push(self, embeddings, classes, valid=None):
        valid = torch.ones(len(classes), dtype=torch.bool) if valid is None else valid
        for row, c, ok in zip(embeddings, classes.tolist(), valid.tolist()):
            if ok and c != IGNORE:
                self.queues[c].append(row)

    def contents(self, c):
        return torch.stack(list(self.queues[c])) if self.queues[c] else torch.empty(0, 3)


@pytest.mark.parametrize("capacities", [(5,) * 4, (3, 7, 1, 11)], ids=["equal rings", "a ring size a class"])
@pytest.mark.parametrize("sizes", [(0, 1, 2, 3), (1, 20, 90)], ids=["short pushes", "pushes longer than a ring"])
def test_it_is_a_queue_a_class(capacities, sizes):
    rng, generator = random.Random(1), torch.Generator().manual_seed(1)
    bank = ClassMemoryBank(4, 3, capacities if len(set(capacities)) > 1 else capacities[0])
    slow, total = Queues(capacities), torch.zeros(4, dtype=torch.int64)
    for step in range(60):
        n = rng.choice(sizes)
        rows = torch.rand(n, 3, generator=generator)
        dtype = rng.choice((torch.int64, torch.int32, torch.uint8))
        classes = torch.tensor([rng.choice((0, 0, 0, 1, 2, 3, IGNORE)) for _ in range(n)], dtype=dtype)
        valid = rng.choice((None, torch.rand(n, generator=generator) < 0.6))
        bank.push(rows, classes, valid)
        slow.push(rows, classes, valid)
        counted = classes if valid is None else classes[valid]
        total += counted[counted != IGNORE].long().bincount(minlength=4)
        assert torch.equal(bank.pushed, total)
        assert bank.counts.tolist() == [len(q) for q in slow.queues]
        assert bank.write_positions.tolist() == [int(t) % k for t, k in zip(total, capacities)]
        for c in range(4):
            assert torch.equal(bank.contents(c), slow.contents(c))
        assert (bank.entries[-1] == 0).all()


def test_an_entry_stays_in_its_slot_until_it_is_overwritten():
    bank = ClassMemoryBank(2, 1, (4, 2))
    bank.push(torch.arange(6.)[:, None], torch.zeros(6, dtype=torch.int64))
    assert bank.entries.flatten().tolist() == [4, 5, 2, 3, 0, 0, 0]
    bank.push(torch.tensor([[9.]]), torch.tensor([1]))
    assert bank.entries.flatten().tolist() == [4, 5, 2, 3, 9, 0, 0]


def test_the_order_of_classes_in_a_push_does_not_matter():
    rows, classes = torch.rand(40, 3), torch.arange(4).repeat(10)
    one, two = ClassMemoryBank(4, 3, 6), ClassMemoryBank(4, 3, 6)
    one.push(rows, classes)
    grouped = classes.argsort(stable=True)
    two.push(rows[grouped], classes[grouped])
    assert torch.equal(one.entries, two.entries)


def test_renaming_the_classes_renames_the_lanes():
    rows, classes, names = torch.rand(50, 3), torch.randint(0, 5, (50,)), torch.randperm(5)
    one, two = ClassMemoryBank(5, 3, 6), ClassMemoryBank(5, 3, 6)
    one.push(rows, classes)
    two.push(rows, names[classes])
    assert all(torch.equal(one.contents(c), two.contents(int(names[c]))) for c in range(5))


def test_rows_that_are_not_finite_stay_out():
    rows = torch.ones(5, 3)
    rows[1, 2], rows[3, 0] = torch.nan, torch.inf
    bank = ClassMemoryBank(2, 3, 10)
    bank.push(rows, torch.zeros(5, dtype=torch.int64))
    assert bank.counts.tolist() == [3, 0] and bank.entries.isfinite().all()
    half = ClassMemoryBank(2, 3, 10, dtype=torch.float16)
    half.push(torch.full((1, 3), 1e6), torch.tensor([0]))  # finite, but not in half precision
    assert half.counts.sum() == 0 and half.entries.isfinite().all()


def test_it_keeps_values_not_graphs_and_copies_not_views():
    rows = torch.rand(4, 3, requires_grad=True)
    bank = ClassMemoryBank(2, 3, 10)
    bank.push(rows, torch.zeros(4, dtype=torch.int64))
    drawn = bank.entries[bank.draw(5)[0]]
    assert not bank.entries.requires_grad and not drawn.requires_grad
    before = bank.entries.clone()
    drawn.fill_(7.0)
    with torch.no_grad():
        rows.fill_(8.0)
    assert torch.equal(bank.entries, before)


def test_sampling_is_even_and_within_the_counts():
    bank = ClassMemoryBank(4, 1, (100, 100, 7, 5))
    for c, n in ((0, 20), (1, 1), (2, 30)):  # partly filled, one entry, gone round
        bank.push(torch.arange(float(n))[:, None], torch.full((n,), c))
    draws = 40_000
    rows, has = bank.draw(draws, torch.Generator().manual_seed(0))
    entries = bank.entries[rows]
    assert entries.shape == (4, draws, 1) and has.tolist() == [True, True, True, False]
    assert (entries[3] == 0).all() and (entries[1] == 0).all()
    for c, expected, bound in ((0, range(20), 43.8), (2, range(23, 30), 22.5)):  # bounds: exceeded once in a thousand times
        values, times = entries[c].flatten().unique(return_counts=True)
        assert values.tolist() == list(expected)
        even = draws / len(times)
        assert ((times - even) ** 2 / even).sum() < bound


def test_draws_follow_the_generator_and_lanes_are_independent():
    bank = ClassMemoryBank(2, 1, 50)
    bank.push(torch.arange(50.).repeat(2)[:, None], torch.arange(2).repeat_interleave(50))
    one, two = (bank.draw(200, torch.Generator().manual_seed(3))[0] for _ in range(2))
    assert torch.equal(one, two) and not torch.equal(one[0], one[1] - 50)
    assert not torch.equal(one, bank.draw(200, torch.Generator().manual_seed(4))[0])
    assert bank.draw(0)[0].shape == (2, 0)


def test_a_draw_names_rows_of_its_own_ring():
    bank = ClassMemoryBank(4, 3, (100, 9, 7, 5))
    bank.push(torch.rand(60, 3) + 1, torch.arange(3).repeat(20))  # one lane partly filled, two gone round, one empty
    rows, has = bank.draw(200, torch.Generator().manual_seed(5))
    entries = bank.entries[rows]
    assert rows.shape == (4, 200) and rows.dtype == torch.int64 and has.tolist() == [True, True, True, False]
    assert (entries[:3] > 0).all() and (entries[3] == 0).all()
    for c, (start, count) in enumerate(((0, 20), (100, 9), (109, 7))):
        assert sorted(rows[c].unique().tolist()) == list(range(start, start + count))
    with pytest.raises(ConfigError, match="per_class: found -1"):
        bank.draw(-1)


def test_an_empty_lane_names_rows_of_zeros_whatever_its_neighbours_hold():
    bank = ClassMemoryBank(3, 2, 4)
    bank.push(torch.ones(8, 2), torch.tensor([0, 2] * 4))
    rows, has = bank.draw(5)
    assert has.tolist() == [True, False, True] and (bank.entries[rows[1]] == 0).all()


def test_the_largest_draw_stays_inside():
    "The largest number that rand gives, times the largest capacity, must not round up to the capacity."
    below_one = torch.tensor(1 - 2.0**-24)
    for n in (1, 3, 30_000, 50_000, 2**24 - 1, 2**24):
        assert int((below_one * torch.tensor(n)).long()) == n - 1


def test_a_saved_bank_goes_on_as_if_nothing_had_happened():
    bank = ClassMemoryBank(3, 4, (5, 9, 2))
    bank.push(torch.rand(30, 4), torch.randint(0, 3, (30,)))
    copy = ClassMemoryBank(3, 4, (5, 9, 2))
    copy.load_state_dict(load(save(bank.state_dict())))
    rows, classes = torch.rand(17, 4), torch.randint(0, 3, (17,))
    for b in (bank, copy):
        b.push(rows, classes)
    assert bank.state_dict().keys() == copy.state_dict().keys() == {"entries", "pushed", "capacity"}
    assert all(torch.equal(bank.state_dict()[k], v) for k, v in copy.state_dict().items())
    assert torch.equal(*(b.draw(9, torch.Generator().manual_seed(0))[0] for b in (bank, copy)))


def test_a_bank_of_other_rings_is_refused():
    "The same number of rows, cut up differently, would fit and be wrong."
    saved = ClassMemoryBank(2, 4, (5, 3)).state_dict()
    with pytest.raises(RuntimeError, match=r"capacity: found \[5, 3\], expected \[3, 5\]"):
        ClassMemoryBank(2, 4, (3, 5)).load_state_dict(saved)
    with pytest.raises(RuntimeError, match="entries"):
        ClassMemoryBank(2, 4, 5).load_state_dict({**saved, "capacity": torch.tensor([5, 5])})


def test_casting_changes_entries_and_leaves_counts():
    bank = ClassMemoryBank(2, 4, 5)
    bank.push(torch.rand(7, 4), torch.zeros(7, dtype=torch.int64))
    bank.to(torch.float16)
    assert bank.entries.dtype == torch.float16 and bank.pushed.dtype == torch.int64 and bank.counts.tolist() == [5, 0]
    bank.push(torch.rand(3, 4), torch.ones(3, dtype=torch.int64))  # float32 into float16
    assert bank.entries.dtype == torch.float16 and bank.counts.tolist() == [5, 3]
    assert ClassMemoryBank(2, 4, 5, dtype=torch.bfloat16).entries.dtype == torch.bfloat16


def test_no_value_is_looked_at():
    "On the meta device tensors have no content: whatever would wait for a GPU fails there."
    memory = ClassMemoryBank(19, 8, 50).to("meta")
    rows, classes = torch.empty(90, 8, device="meta"), torch.empty(90, dtype=torch.int64, device="meta")
    memory.push(rows, classes)
    memory.push(rows, classes, torch.empty(90, dtype=torch.bool, device="meta"))
    rows, has = memory.draw(12)
    assert rows.shape == (19, 12) and has.shape == memory.counts.shape == (19,)
    confidence = ConfidenceBank(19).to("meta")
    confidence.update(torch.empty(2, 19, 4, 4, device="meta"), torch.empty(2, 4, 4, dtype=torch.int64, device="meta"))
    assert confidence.sampling_probs().shape == confidence.class_rate().shape == (19,)


@pytest.mark.parametrize("arguments, words", [
    (dict(num_classes=0, dim=2, capacity=3), "num_classes, dim: found 0 and 2"),
    (dict(num_classes=2, dim=0, capacity=3), "num_classes, dim: found 2 and 0"),
    (dict(num_classes=2, dim=2, capacity=0), "capacity: found 0, expected one number from 1"),
    (dict(num_classes=2, dim=2, capacity=[3]), r"capacity: found \[3\], expected .* or 2 of them"),
    (dict(num_classes=2, dim=2, capacity=[3, -1]), "capacity: found"),
    (dict(num_classes=1, dim=1, capacity=2**24 + 1), "capacity: found"),
])
def test_sizes_are_checked(arguments, words):
    with pytest.raises(ConfigError, match=words):
        ClassMemoryBank(**arguments)


FOUR = torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize("embeddings, classes, valid, error, words", [
    (torch.zeros(4, 2), FOUR, None, DataError, r"embeddings: found \(4, 2\) torch.float32, expected floating \(N,3\)"),
    (torch.zeros(4), FOUR, None, DataError, "embeddings: found"),
    (torch.zeros(4, 3, dtype=torch.int64), FOUR, None, DataError, "embeddings: found .* torch.int64"),
    (torch.zeros(4, 3), FOUR[:3], None, LabelError, r"classes: found \(3,\) torch.int64, expected integers \(4,\)"),
    (torch.zeros(4, 3), FOUR.float(), None, LabelError, "classes: found .* torch.float32"),
    (torch.zeros(4, 3), FOUR, torch.ones(4), DataError, "valid: found .* torch.float32, expected bool"),
    (torch.zeros(4, 3), FOUR, torch.ones(3, dtype=torch.bool), DataError, r"valid: found \(3,\)"),
    (torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]), None, LabelError, "classes: found id 2, expected 0 to 1 or 255"),
    (torch.zeros(1, 3), torch.tensor([-1]), None, LabelError, "classes: found id -1"),
])
def test_a_wrong_push_is_refused_and_changes_nothing(embeddings, classes, valid, error, words):
    bank = ClassMemoryBank(2, 3, 5)
    with pytest.raises(error, match=words):
        bank.push(embeddings, classes, valid)
    assert bank.pushed.sum() == 0


def test_reading_is_checked():
    bank = ClassMemoryBank(2, 3, 5)
    with pytest.raises(ConfigError, match="per_class: found -1"):
        bank.draw(-1)
    for wrong in (-1, 2):
        with pytest.raises(ConfigError, match=f"index: found {wrong}, expected 0 to 1"):
            bank.contents(wrong)
    bank.push(torch.zeros(2, 3), torch.tensor([77, 0]), torch.tensor([False, True]))  # an unknown id that does not count
    assert bank.counts.tolist() == [1, 0]


def example_batch(seed=0, num_classes=6):
    generator = torch.Generator().manual_seed(seed)
    probs = torch.randn(2, num_classes, 7, 9, generator=generator).mul(2).softmax(1)
    labels = torch.randint(0, num_classes - 2, (2, 7, 9), generator=generator)  # two classes do not occur
    return probs, labels.masked_fill(torch.rand(labels.shape, generator=generator) < 0.3, IGNORE)


def test_confidence_is_the_running_mean_of_a_loop():
    bank, slow = ConfidenceBank(6, 0.9), [0.0] * 6
    for seed in range(5):
        probs, labels = example_batch(seed)
        bank.update(probs, labels)
        for c in range(6):
            b, y, x = torch.nonzero(labels == c, as_tuple=True)
            if len(b):
                slow[c] = 0.9 * slow[c] + 0.1 * math.fsum(probs[b, c, y, x].tolist()) / len(b)
        assert torch.allclose(bank.confidence, torch.tensor(slow), atol=1e-6)
    assert slow[4] == slow[5] == 0


def test_absent_classes_keep_their_number_to_the_last_bit():
    bank = ConfidenceBank(6, 0.9)
    bank.confidence.uniform_()
    before = bank.confidence.clone()
    bank.update(*example_batch())
    assert torch.equal(bank.confidence[4:], before[4:]) and (bank.confidence[:4] != before[:4]).all()
    before = bank.confidence.clone()
    bank.update(example_batch()[0], torch.full((2, 7, 9), IGNORE))
    assert torch.equal(bank.confidence, before)
    bank.update(torch.zeros(0, 6, 7, 9), torch.zeros(0, 7, 9, dtype=torch.int64))
    assert torch.equal(bank.confidence, before)


def test_the_order_of_pixels_and_images_does_not_matter_to_the_last_bit():
    probs, labels = example_batch()
    expected = class_confidence(probs, labels)
    flat_probs, flat_labels = probs.movedim(1, 0).flatten(1), labels.flatten()
    for seed in range(5):
        mixed = torch.randperm(len(flat_labels), generator=torch.Generator().manual_seed(seed))
        found = class_confidence(flat_probs[None, :, None, mixed], flat_labels[None, None, mixed])
        assert all(torch.equal(a, b) for a, b in zip(found, expected))
    assert torch.equal(class_confidence(probs.flip(0), labels.flip(0))[0], expected[0])


def test_the_sum_is_exact_for_many_pixels():
    probs = torch.zeros(1, 2, 1000, 2000)
    probs[:, 0], probs[:, 1] = 0.1, 0.9
    confidence, count = class_confidence(probs, torch.zeros(1, 1000, 2000, dtype=torch.int64))
    assert count.tolist() == [2_000_000, 0] and confidence[0] == torch.tensor(0.1)  # a float32 running sum would be off by a percent


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-6), (torch.bfloat16, 4e-3), (torch.float16, 5e-4)])
def test_confidence_of_probabilities_of_any_precision(dtype, tolerance):
    probs, labels = example_batch()
    expected = class_confidence(probs, labels)[0]
    assert torch.allclose(class_confidence(probs.to(dtype), labels)[0], expected, atol=tolerance)
    bank = ConfidenceBank(6, 0.0)
    bank.update(probs.to(dtype), labels.to(torch.uint8))
    assert bank.confidence.dtype == torch.float32 and bank.confidence.isfinite().all()


def test_the_probability_of_the_right_class_is_all_it_needs():
    probs, labels = example_batch()
    right = probs.gather(1, labels.where(labels != IGNORE, 0)[:, None])[:, 0].masked_fill(labels == IGNORE, 7.0)
    for found, expected in zip(confidence_of_right(right, labels, 6), class_confidence(probs, labels)):
        assert torch.equal(found, expected)
    one, two = ConfidenceBank(6, 0.9), ConfidenceBank(6, 0.9)
    one.update(probs, labels)
    two.update_right(right, labels)
    assert torch.equal(one.confidence, two.confidence)
    with pytest.raises(DataError, match=r"right: found \(7, 9\)"):
        two.update_right(right[0], labels)


def test_a_step_that_overflowed_does_not_spoil_the_bank():
    probs, labels = example_batch()
    probs[0] = torch.nan
    assert torch.equal(class_confidence(probs, labels)[0], class_confidence(probs[1:], labels[1:])[0])


def test_limits_of_the_momentum():
    probs, labels = example_batch()
    never, at_once = ConfidenceBank(6, 1.0), ConfidenceBank(6, 0.0)
    for bank in (never, at_once):
        bank.update(*example_batch(1))
        bank.update(probs, labels)
    assert (never.confidence == 0).all()
    batch, count = class_confidence(probs, labels)
    assert torch.equal(at_once.confidence[count > 0], batch[count > 0])


def test_sampling_probabilities_and_rates():
    bank = ConfidenceBank(4)
    bank.confidence.copy_(torch.tensor([0.9, 0.1, 0.5, 0.0]))
    s, r = bank.sampling_probs(), bank.class_rate()
    weights = [math.exp(1 - c) for c in (0.9, 0.1, 0.5, 0.0)]
    assert torch.allclose(s, torch.tensor([w / sum(weights) for w in weights])) and s.sum().item() == pytest.approx(1)
    assert torch.allclose(r, torch.tensor([0.1, 0.9, 0.5, 1.0]))
    assert s.argsort().tolist() == r.argsort().tolist() == [0, 2, 1, 3]
    assert s.max() / s.min() <= math.e
    for value in (0.0, 0.3, 1.0):  # all alike: none is thinned out, also where the formula is 0/0
        bank.confidence.fill_(value)
        assert bank.class_rate().tolist() == [1.0] * 4 and torch.allclose(bank.sampling_probs(), torch.full((4,), 0.25))
    bank.confidence.copy_(torch.tensor([1.0, 1.0, 1.0, 0.5]))
    assert bank.class_rate().tolist() == [0.0, 0.0, 0.0, 1.0]


def test_confidence_stays_float32_and_is_saved():
    bank = ConfidenceBank(6, 0.999)
    bank.confidence.fill_(0.123456789)
    holder = torch.nn.Sequential(bank).to(torch.bfloat16)
    assert holder[0].confidence.dtype == torch.float32 and (holder[0].confidence == torch.tensor(0.123456789)).all()
    copy = ConfidenceBank(6, 0.999)
    copy.load_state_dict(load(save(bank.state_dict())))
    assert torch.equal(copy.confidence, bank.confidence)
    assert bank.to("meta").confidence.device.type == "meta"
    assert bank.to_empty(device="cpu").confidence.device.type == "cpu"


ROAD = torch.zeros(2, 7, 9, dtype=torch.int64)


@pytest.mark.parametrize("probs, labels, error, words", [
    (torch.rand(2, 5, 7, 9), ROAD, DataError, r"probs: found shape \(2, 5, 7, 9\), expected \(B,6,H,W\)"),
    (torch.rand(6, 7, 9), torch.zeros(7, 9, dtype=torch.int64), DataError, "probs: found"),
    (torch.zeros(2, 6, 7, 9, dtype=torch.int64), ROAD, DataError, "expected floating"),
    (torch.rand(2, 6, 7, 9), torch.zeros(2, 7, 8, dtype=torch.int64), LabelError, r"labels: found \(2, 7, 8\)"),
    (torch.rand(2, 6, 7, 9), torch.zeros(2, 7, 9), LabelError, "labels: found .* torch.float32"),
    (torch.rand(2, 6, 7, 9), torch.full((2, 7, 9), 6), LabelError, "labels: found id 6, expected 0 to 5 or 255"),
    (torch.rand(2, 6, 7, 9) + 2, ROAD, DataError, "expected probabilities"),
    (torch.rand(2, 6, 7, 9) - 2, ROAD, DataError, "expected probabilities"),
])
def test_a_wrong_update_is_refused_and_changes_nothing(probs, labels, error, words):
    bank = ConfidenceBank(6)
    with pytest.raises(error, match=words):
        bank.update(probs, labels)
    assert (bank.confidence == 0).all()


@pytest.mark.parametrize("arguments, words", [
    ((0, 0.9), "num_classes: found 0"),
    ((3, -0.1), "momentum: found -0.1, expected a number from 0 to 1"),
    ((3, 1.1), "momentum: found 1.1"),
])
def test_settings_are_checked(arguments, words):
    with pytest.raises(ConfigError, match=words):
        ConfidenceBank(*arguments)

# ---------------------------------------------------------------------------------------------------- several processes


def joint_data(step, dtype):
    "What two processes see in a step, made from a seed, so that each can also do the work of both."
    generator = torch.Generator().manual_seed(step)
    rows = torch.randn(2, 24, 6, generator=generator).to(dtype)
    rows[0, 3, 2] = torch.nan
    classes = torch.randint(0, 6, (2, 24), generator=generator)
    classes[1, :4] = IGNORE
    valid = torch.rand(2, 24, generator=generator) < 0.7
    probs = torch.randn(4, 6, 9, 11, generator=generator).softmax(1)
    labels = torch.randint(0, 4, (4, 9, 11), generator=generator)
    labels[2:][labels[2:] == 3] = IGNORE  # class 3 is seen by one of the two only
    return rows, classes, valid, probs, labels


def one_of_two(rank, folder):
    "Runs in a process of its own. Writes what it holds; raises, and so fails the test, where it differs from one process with everything."
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            together, alone = (ClassMemoryBank(6, 6, (3, 50, 7, 7, 7, 1), dtype=dtype) for _ in range(2))
            for step in range(5):
                rows, classes, valid, _, _ = joint_data(step, torch.float32)
                given = (valid[rank], valid) if step % 2 else (None, None)
                together.push(*gather_entries(rows[rank], classes[rank], given[0]))
                alone.push(rows.flatten(0, 1), classes.flatten(), None if given[1] is None else given[1].flatten())
            assert all(torch.equal(a, b) for a, b in zip(together.state_dict().values(), alone.state_dict().values())), dtype
        together.push(*gather_entries(torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64)))  # nothing to say, said by all

        shared, single, apart = (ConfidenceBank(6, 0.9) for _ in range(3))
        for step in range(5):
            *_, probs, labels = joint_data(step, torch.float32)
            mine = slice(2 * rank, 2 * rank + 2)
            with joint_batch(2):
                shared.update(probs[mine], labels[mine])
            single.update(probs, labels)
            apart.update(probs[mine], labels[mine])
        assert torch.equal(shared.confidence, single.confidence) and not torch.equal(apart.confidence, single.confidence)
        assert (shared.confidence[4:] == 0).all() and shared.confidence[3] > 0

        with pytest.raises(DataError, match=r"found \(rows, bytes a row\) \[\[2, 24\], \[3, 24\]\] in the processes"):
            gather_entries(torch.zeros(2 + rank, 6), torch.zeros(2 + rank, dtype=torch.int64))
        (Path(folder) / f"done-{rank}").touch()
    finally:
        distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_hold_the_bank_of_one_process_with_both_batches(tmp_path):
    spawn(one_of_two, str(tmp_path))
    assert all((tmp_path / f"done-{rank}").exists() for rank in range(2))


def test_without_a_process_group_gathering_changes_nothing():
    rows, classes, valid, probs, labels = (t[0] for t in joint_data(0, torch.float32))
    assert all(a is b for a, b in zip(gather_entries(rows, classes, valid), (rows, classes, valid)))
    assert gather_entries(rows, classes)[2] is None
    one, two = ClassMemoryBank(6, 6, 7), ClassMemoryBank(6, 6, 7)
    one.push(rows, classes, valid)
    two.push(*gather_entries(rows, classes, valid))
    assert torch.equal(one.entries, two.entries) and torch.equal(one.pushed, two.pushed)
    one, two = ConfidenceBank(6, 0.9), ConfidenceBank(6, 0.9)
    one.update(probs[None], labels[None])
    with joint_batch(1):
        two.update(probs[None], labels[None])
    assert torch.equal(one.confidence, two.confidence)
