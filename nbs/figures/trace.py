"""A training that writes down what its banks receive: for 07 Banks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from stal_nb.app.demo import demo_model
from stal_nb.banks import ClassMemoryBank, ConfidenceBank
from stal_nb.config import TrainingConfig
from stal_nb.labels import CITYSCAPES
from stal_nb.mixing import copy_paste, paste_mask
from stal_nb.runtime.errors import DataError
from stal_nb.scenes import SceneDataset
from stal_nb.step import TrainingState
from stal_nb.trainer import Trainer

# A training to look at
#
# The real trainer, started from the demo network. Two banks that write down what they are given: the confidence of
# each batch, and the origin of each entry of the memory.


class RecordingConfidenceBank(ConfidenceBank):
    "Keeps the confidence of every batch (NaN where a class did not occur) and how many pixels each class had."

    def __init__(self, num_classes: int, momentum: float):
        super().__init__(num_classes, momentum)
        self.batches: list[Tensor] = []
        self.pixels: list[Tensor] = []

    def absorb(self, batch: Tensor, count: Tensor) -> None:
        self.batches.append(torch.where(count > 0, batch, torch.nan))
        self.pixels.append(count)
        super().absorb(batch, count)

ORIGIN = ("place", "scene", "y", "x", "true class", "step")  # what a second bank stores of each entry


class TracingMemoryBank(ClassMemoryBank):
    """Knows where each entry came from: a second bank gets the origins in the same pushes, and so forgets in the same
    rhythm.

    An entry is found again by its direction: it is the embedding that the teacher gave one pixel in this step.
    """

    def __init__(self, num_classes: int, dim: int, capacity: int):
        super().__init__(num_classes, dim, capacity)
        self.origin = ClassMemoryBank(num_classes, len(ORIGIN), capacity)
        self.teacher_embeddings: list[Tensor] = []  # embeddings (V,D,h,w) of the teacher in this step
        self.origins = torch.zeros(0, len(ORIGIN))  # (V h w, 6): origin of each of their pixels

    def push(self, embeddings: Tensor, classes: Tensor, valid: Tensor | None = None) -> None:
        super().push(embeddings, classes, valid)
        # (V h w, D)
        known = F.normalize(torch.cat(self.teacher_embeddings).movedim(1, -1).flatten(0, 2).float(), dim=1)
        cosine, number = (F.normalize(embeddings.float(), dim=1) @ known.T).max(1)
        if cosine.min() < 0.9999:
            raise DataError(
                f"embeddings: found a row with cosine {cosine.min():.4f} to all that the teacher returned, "
                "expected one of its pixels"
            )
        self.origin.push(self.origins[number], classes, valid)


class TracingTrainer(Trainer):
    """The trainer, whose memory bank is told which pixel of which image the teacher looks at. Views must be whole
    images, mirrored or not."""

    def one_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        memory = self.state.memory
        memory.teacher_embeddings, memory.origins = [], self.origins(batch)
        hook = self.state.teacher.register_forward_hook(lambda module, views,
                                                        output: memory.teacher_embeddings.append(output.embeddings))
        try:
            return super().one_step(batch)
        finally:
            hook.remove()

    def origins(self, batch: dict[str, Tensor], stride: int = 4) -> Tensor:  # (V h w, 6) float32
        """Where each cell of the teacher's views comes from: labelled source images, labelled target images, unlabelled
        ones."""
        pools = self.loader.pools
        images, labels = batch["image"], batch["labels"]
        pasted = torch.zeros_like(labels, dtype=torch.bool)
        if "paste_image" in batch:
            pasted = paste_mask(batch["paste_labels"], batch["paste_classes"])
            _, labels = copy_paste(images, labels, batch["paste_image"], batch["paste_labels"], batch["paste_classes"])
        where = [(0, "source", i)
                 for i in batch["source_index"].tolist()] + [(1, "labelled", i)
                                                             for i in batch["labelled_index"].tolist()]
        where += [(1, "labelled", i) for i in batch["unlabelled_index"].tolist()]
        maps = []
        for k, (place, pool, index) in enumerate(where):
            view = images[k] if k < len(images) else batch["unlabelled"][k - len(images)]
            sample = pools[pool][index]
            mirrored = (view - sample.image).abs().mean() > (view - sample.image.flip(-1)).abs().mean()
            y, x = torch.meshgrid(*(torch.arange(n) for n in view.shape[1:]), indexing="ij")
            truth = labels[k] if k < len(images) else sample.labels.flip(-1) if mirrored else sample.labels
            places = torch.full_like(y, place) + 2 * pasted[k] if k < len(images) else torch.full_like(y, place)
            column = x.flip(-1) if mirrored else x
            maps.append(torch.stack([places, torch.full_like(y, index), y, column, truth,
                                     torch.full_like(y, self.step + 1)], -1))
        return torch.stack(maps)[:, ::stride, ::stride].flatten(0, 2).float()


@dataclass
class FilledBank:
    "The memory bank of a training after its last step, the origin of each entry, and its contents after every step."

    memory: ClassMemoryBank  # embeddings
    origin: ClassMemoryBank  # see ORIGIN
    centres: Tensor  # (C,D) unit vectors: mean embedding of each class's true pixels, 0 if there are none
    scenes: dict[str, SceneDataset]
    per_push: int  # entries of each class in one push
    # after each step: (C,K) true class of the entry in each slot, -1 = empty; (C,) next slot
    snapshots: list[tuple[Tensor, Tensor]]

    def lane(self, index: int) -> tuple[Tensor, Tensor]:  # (n,D) unit vectors; (n,6) int64 origins
        return F.normalize(self.memory.contents(index), dim=1), self.origin.contents(index).long()

    def wrong_share(self) -> Tensor:  # (C,) in [0,1], NaN = empty lane
        "Share of entries in each lane whose true class is the lane's own."
        lanes = [self.lane(c)[1][:, 4] == c for c in range(self.memory.num_classes)]
        return torch.stack([lane.float().mean() for lane in lanes])


@dataclass
class Trace:
    "What the banks did in a training."

    pushed: Tensor  # (T,C) int64: entries ever pushed, after each step
    capacity: Tensor  # (C,)
    pixels: Tensor  # (T,C) int64: labelled pixels of each class in the batch
    batch_confidence: Tensor  # (T,C), NaN where the class was not in the batch
    confidence: Tensor  # (T,C)
    embeddings: dict[str, Tensor]  # "teacher", "student" -> (T,P,D) unit vectors of the same P pixels after each step
    filled: FilledBank  # the memory bank at the end

    def staleness(self, network: str) -> Tensor:  # (T,) mean cosine in [-1,1]
        """Cosine between the embeddings of a pixel 0, 1, 2, ... steps apart, averaged over pixels and the whole
        training."""
        steps, pixels, _ = self.embeddings[network].shape
        vectors = self.embeddings[network].flatten(1)
        cosine = vectors @ vectors.T / pixels  # (T,T)
        return torch.stack([cosine.diagonal(age).mean() for age in range(steps)])


@torch.inference_mode()
def class_centres(network: torch.nn.Module, scenes: Sequence[SceneDataset], num_classes: int) -> Tensor:  # (C,D)
    "Mean direction of the embeddings of each class's true pixels."
    sums = None
    for dataset in scenes:
        for start in range(0, len(dataset), 8):
            samples = [dataset[k] for k in range(start, min(start + 8, len(dataset)))]
            vectors = F.normalize(network(torch.stack([s.image
                                                       for s in samples])).embeddings.movedim(1, -1).flatten(0, 2),
                                  dim=1)
            truth = torch.stack([s.labels for s in samples])[:, ::4, ::4].flatten()
            sums = vectors.new_zeros(256, vectors.shape[1]) if sums is None else sums
            sums.index_add_(0, truth, vectors)
    return F.normalize(sums[:num_classes], dim=1)


@lru_cache(maxsize=2)
def watch_training(
    steps: int = 40,
    size: tuple[int, int] = (64, 128),
) -> Trace:
    """The demo network goes on learning in the real trainer, with 3 labelled and 21 unlabelled images of the other
    domain.

    The views are whole images, mirrored or not, so that each entry of the memory can be traced to its pixel.
    """
    config = TrainingConfig(
        backbone="tf_efficientnet_lite0", weights=None, aspp_channels=64, embedding_dim=64, crop_size=size,
        device="cpu",
        source_scale=(1, 1), target_scale=(1, 1), source_batch=2, target_batch=1, unlabelled_batch=2, lr=0.005,
        num_anchors=20,
        num_negatives=32, bank_capacity=320, bank_push=32, confidence_momentum=0.97)
    state, num_classes = TrainingState(config, CITYSCAPES.num_classes, 24, 24), CITYSCAPES.num_classes
    state.student.load_state_dict(demo_model().state_dict())
    state.teacher.update(state.student, 0)  # at step 0 the teacher becomes the student
    state.confidence = RecordingConfidenceBank(num_classes, config.confidence_momentum)
    state.memory = TracingMemoryBank(num_classes, config.embedding_dim, config.bank_capacity)
    source, target = (SceneDataset(domain, 24, size=size, cache=24) for domain in ("sim", "real"))
    images = torch.stack([target[k].image for k in range(2)])
    networks = {"teacher": state.teacher, "student": state.student}
    pushed, confidence, snapshots, embeddings = [], [], [], {name: [] for name in networks}

    @torch.inference_mode()
    def look(_):
        pushed.append(state.memory.pushed.clone())
        confidence.append(state.confidence.confidence.clone())
        slots = state.memory.origin.entries[:-1, 4].view(num_classes, -1).long()
        filled = torch.arange(config.bank_capacity) < state.memory.counts[:, None]
        snapshots.append((slots.where(filled, -1), state.memory.write_positions))
        for name, network in networks.items():
            found = network.eval()(images).embeddings[..., ::2, ::2]
            embeddings[name].append(F.normalize(found.movedim(1, -1).flatten(0, 2), dim=1))

    trainer = TracingTrainer(config, CITYSCAPES, state, source, target, range(3), range(3, 24), num_steps=steps,
                             log_every=1)
    trainer.fit(bar=False, on_log=look)
    scenes = {"sim": source, "real": target}
    filled = FilledBank(state.memory, state.memory.origin,
                        class_centres(state.teacher.eval(), [source, target], num_classes), scenes,
                        config.bank_push, snapshots)
    return Trace(torch.stack(pushed), state.memory.capacity, torch.stack(state.confidence.pixels),
                 torch.stack(state.confidence.batches),
                 torch.stack(confidence), {name: torch.stack(found) for name, found in embeddings.items()}, filled)
