"""Features of the frozen backbone: never trained, resumable, keyed by image id; and the first query needs no model."""
import json
import warnings

import pytest
import torch

import stal_nb.features as features
from stal_nb.backbones import BACKBONES
from stal_nb.features import FeaturePass, Features, FrozenBackbone, Vocabulary, cell_grid, compute_features, image_cells, image_vectors, seen_size
from stal_nb.run import Run
from stal_nb.runtime.errors import StoreError
from stal_nb.scenes import SceneDataset
from stal_nb.temperature import fit_temperature, labelled_logits
from tiny import tiny

SMALL = FeaturePass("mobilenet_v3_small", None, batch_size=2)


class Some:
    "The first images of a data set; opening one of `broken` fails."

    def __init__(self, length, broken=()):
        self.scenes, self.length, self.broken, self.opened = SceneDataset("real", 9, size=(48, 96), seed=0), length, broken, []
        self.ids, self.groups = self.scenes.ids[:length], ["a"] * length

    def __len__(self):
        return self.length

    def __getitem__(self, k):
        if k in self.broken:
            raise KeyboardInterrupt
        self.opened.append(k)
        return self.scenes[k]

    def load_image(self, k):
        return self.scenes[k].image


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18", "timm/tf_efficientnet_lite0"])
def test_stages_end_where_the_network_says_they_do(name):
    "The last stage of an undilated backbone is what segmentation reads from a dilated one, before dilation; the first is the same map."
    frozen, images = FrozenBackbone(name, None, seed=3), torch.rand(1, 3, 64, 96)
    maps = frozen(images)
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    low, _, high = frozen.backbone((images - frozen.mean) / frozen.std)
    assert torch.equal(maps[0], low) and torch.equal(maps[-1], high)
    assert torch.equal(FrozenBackbone(name, None, seed=3)(images)[-1], maps[-1])


def test_making_a_frozen_backbone_draws_no_number_of_anybody_else():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    FrozenBackbone("mobilenet_v3_small", None, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_a_backbone_of_ones_own_needs_no_stages(monkeypatch):
    class Own(torch.nn.Module):
        mean, std = (0.5,) * 3, (0.5,) * 3

        def __init__(self, output_stride, pretrained):
            super().__init__()

        def forward(self, x):
            return [torch.nn.functional.avg_pool2d(x, s) for s in (4, 16, 32)]

    monkeypatch.setitem(BACKBONES, "own", Own)
    maps = FrozenBackbone("own", None)(torch.rand(1, 3, 64, 64))
    assert [m.shape[-1] for m in maps] == [16, 4, 2] and image_vectors(maps).shape == (1, 6)


def test_cells_and_vectors_are_means_of_maps():
    maps = [torch.rand(2, c, 12 // s, 24 // s) for c, s in ((3, 1), (4, 2), (5, 2), (6, 4))]
    assert torch.allclose(image_vectors(maps), torch.cat([maps[2].mean((2, 3)), maps[3].mean((2, 3))], 1))
    cells = image_cells(maps, (3, 6))
    assert cells.shape == (2, 18, 18) and torch.allclose(cells[0, 0, :3], maps[0][0, :, :4, :4].mean((1, 2)))
    assert cell_grid((100, 400)) == (6, 12) and cell_grid((600, 100)) == (6, 1) and seen_size((300, 300), (64, 96)) == (64, 96)


def test_words_are_the_nearest_centres_of_scaled_and_rotated_cells():
    cells = torch.randn(300, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10, 100, 0.1, 0])
    words = Vocabulary.learn(cells)
    x = (cells[:20] - words.mean) @ words.basis
    plain = torch.zeros(words.books.shape[:2])
    for b, book in enumerate(words.books):
        for cell in x:
            plain[b, int((cell - book).square().sum(1).argmin())] += 1 / 20
    assert torch.allclose(words.histogram(cells[:20]), plain.flatten(), atol=1e-6)
    assert (x.std(0) < 5).all(), "no direction is loud because of its unit"


def test_a_pass_that_was_killed_goes_on_and_gives_the_same(tmp_path):
    whole = compute_features(tmp_path / "whole", Some(9), SMALL, bar=False)
    with pytest.raises(KeyboardInterrupt):
        compute_features(tmp_path / "killed", Some(9, broken={6}), SMALL, bar=False)
    part = next((tmp_path / "killed").glob("*.part-0.csv"))
    assert len(part.read_text().splitlines()) == 1 + 6 and not list((tmp_path / "killed").glob("features-*.safetensors"))
    part.write_bytes(part.read_bytes()[:-200])  # the last row is torn
    again = Some(9)
    found = compute_features(tmp_path / "killed", again, SMALL, bar=False)
    assert 0 not in again.opened and sorted(set(again.opened)) == [4, 5, 6, 7, 8]
    assert torch.equal(found.raw, whole.raw) and torch.equal(found.words, whole.words) and not list((tmp_path / "killed").glob("*.part-*"))


def test_a_pool_that_has_grown_costs_its_new_images_and_another_size_a_new_file(tmp_path):
    few = compute_features(tmp_path, Some(6), SMALL, bar=False)
    more = Some(9)
    found = compute_features(tmp_path, more, SMALL, bar=False)
    assert sorted(set(more.opened)) == [6, 7, 8] and torch.equal(found.raw[:6], few.raw) and found.ids == tuple(more.ids)
    assert found.vectors.norm(dim=1).allclose(torch.ones(9)) and found.vectors.abs().max() < 1
    other = FeaturePass("mobilenet_v3_small", None, (32, 64), batch_size=2)
    assert other.key != SMALL.key and FeaturePass("mobilenet_v3_small", None, batch_size=5).key == SMALL.key
    assert Features.of(tmp_path, other, more.ids) is None and Features.of(tmp_path, SMALL, more.ids).ids == found.ids
    with pytest.raises(StoreError, match="found no row for 1 images, 'x' first"):
        found.at(["x"])


def test_files_that_cannot_be_read_are_named(tmp_path):
    compute_features(tmp_path, Some(2), SMALL, bar=False)
    file = tmp_path / f"features-{SMALL.key}.safetensors"
    file.write_bytes(b"damaged")
    with pytest.raises(StoreError, match=f"{file.name}: found a file that cannot be read"):
        compute_features(tmp_path, Some(2), SMALL, bar=False)
    file.unlink()
    words = tmp_path / f"words-{SMALL.key}.safetensors"
    words.write_bytes(b"")
    with pytest.raises(StoreError, match=f"{words.name}: found a file that cannot be read"):
        compute_features(tmp_path, Some(2), SMALL, bar=False)


def test_the_first_query_needs_no_trained_model_and_one_pass_serves_all_rounds(tmp_path, monkeypatch):
    "Without a source stage the network is random; what the frozen backbone chooses is the same as with one."
    queries, passes = {}, []
    one = features.score_into
    monkeypatch.setattr(features, "score_into", lambda *a, **k: passes.append(1) or one(*a, **k))
    for steps in (0, 2):
        run = Run.create(tiny(source_steps=steps, first_strategy="word_coverage_group_quota", strategy="uherding", val_images=1), tmp_path / str(steps))
        run.bar = False
        while run.stage != ("round 0: label" if steps else "round 1: label"):
            run.advance()
        queries[steps] = json.loads((run.round_folder(0) / "query.json").read_text())
        if not steps:
            second = json.loads((run.round_folder(1) / "query.json").read_text())
            header = (run.round_folder(1) / "scores.csv").read_text().splitlines()[0]
            assert header == "id,group,entropy,calibrated" and not set(second["ids"]) & set(queries[0]["ids"])
            assert len(passes) == 1, "the second round reads the file"
            fork = run.fork(tmp_path / "fork", after=0, strategy="frozen_k_center")
            fork.bar = False
            fork.advance()
            assert len(passes) == 1, "a fork takes the features over"
    assert queries[0]["ids"] == queries[2]["ids"] and queries[0]["warnings"] == queries[2]["warnings"]


def test_a_temperature_is_found_by_thirds_as_by_trying():
    dice = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(500, 4, generator=dice)
    y = torch.multinomial((z / 2).softmax(1), 1, generator=dice)[:, 0]
    tried = torch.linspace(0.2, 5, 481)
    best = tried[torch.stack([torch.nn.functional.cross_entropy(z / t, y) for t in tried]).argmin()].item()
    assert abs(fit_temperature(z, y) - best) < 0.02
    assert fit_temperature(z, z.argmax(1)) < 0.11, "always right: as sure as allowed"


def test_logits_of_labelled_pixels_leave_out_what_has_no_label():
    class Plain(torch.nn.Module):
        def forward(self, images, with_embeddings=True):
            from stal_nb.models import SegmentationOutput
            return SegmentationOutput(images * 2, None, None)

    sample = SceneDataset("real", 1, size=(16, 32), seed=0)[0]
    labels = torch.full((16, 32), 255)
    labels[3, 4:9] = 1
    logits, found = labelled_logits(Plain(), [sample._replace(labels=labels)])
    assert found.tolist() == [1] * 5 and torch.allclose(logits, sample.image[:, 3, 4:9].T * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_temperature(*labelled_logits(Plain(), [])) == 1.0
