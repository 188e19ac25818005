"""A noisy training and its moving averages: pictures for 04 Models."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torch.nn import functional as F

from figures.models import coarse_labels, look_inside
from stal_nb.labels import Sample
from stal_nb.models import DeepLabV3Plus, EMATeacher
from stal_nb.runtime.devices import flush_denormals

# The teacher


class Walk(NamedTuple):
    "A student's weights at every step of a noisy training, and the problem it was trained on."

    weights: Tensor  # (steps + 1, n), flat
    student: nn.Conv2d  # a network of that kind
    features: Tensor  # (N,D,1,1) inputs
    labels: Tensor  # (N,1,1)


@flush_denormals()
def noisy_walk(model: DeepLabV3Plus, samples: Sequence[Sample], steps: int = 300, batch: int = 32, lr: float = 4.0,
               seed: int = 0) -> Walk:
    """Train a linear classifier on the decoder's features with small batches and large steps, and note where its
    weights have been."""
    inside = look_inside(model, torch.stack([s.image for s in samples]))["decoder"]
    labels = torch.stack([coarse_labels(s.labels[None], 4)[0, ::4, ::4] for s in samples]).flatten()
    features = inside.movedim(1, -1).flatten(0, 2)
    generator = torch.Generator().manual_seed(seed)
    student = nn.Conv2d(features.shape[1], 19, 1)
    nn.init.zeros_(student.weight)
    nn.init.zeros_(student.bias)
    optimizer = torch.optim.SGD(student.parameters(), lr)
    weights = [flat_weights(student)]
    for _ in range(steps):
        index = torch.randint(0, len(features), (batch,), generator=generator)
        F.cross_entropy(student(features[index, :, None, None]), labels[index, None, None]).backward()
        optimizer.step()
        optimizer.zero_grad()
        weights.append(flat_weights(student))
    return Walk(torch.stack(weights), student, features[:, :, None, None], labels[:, None, None])


def flat_weights(network: nn.Module) -> Tensor:
    "All parameters in one vector (a copy)."
    return nn.utils.parameters_to_vector(network.parameters()).detach().clone()


def follow(walk: Walk, decay: float) -> Tensor:  # (steps, n)
    "Where a teacher with this decay would have been after each step of the walk."
    student = walk.student
    nn.utils.vector_to_parameters(walk.weights[0].clone(), student.parameters())
    teacher = EMATeacher(student, decay)
    path = []
    for step, weights in enumerate(walk.weights[1:]):
        nn.utils.vector_to_parameters(weights, student.parameters())
        teacher.update(student, step)
        path.append(flat_weights(teacher.model))
    return torch.stack(path)


@torch.no_grad()
def losses_of(walk: Walk, path: Tensor, every: int = 5) -> np.ndarray:
    "Cross entropy over all pixels for every fifth point of a path."
    classes = walk.student.out_channels
    flat = walk.features[:, :, 0, 0]
    weights, biases = path[::every, : flat.shape[1] * classes], path[::every, flat.shape[1] * classes:]
    return np.array([float(F.cross_entropy(flat @ w.view(classes, -1).T + b, walk.labels[:, 0, 0]))
                     for w, b in zip(weights, biases)])


def walk_figure(walk: Walk, decays: Sequence[float] = (0.9, 0.99), every: int = 5) -> plt.Figure:
    "The paths of student and teachers in the plane in which the student moves most, and the loss along them."
    paths = {"student": walk.weights[1:], **{f"teacher, decay {d:g}": follow(walk, d) for d in decays}}
    centre = walk.weights.mean(0)
    plane = torch.linalg.svd(walk.weights - centre, full_matrices=False).Vh[:2].T
    colours = ("#999999", "#2f6db3", "#d9622b", "#3a9a5b")
    figure, axes = plt.subplots(1, 2, figsize=(12, 3.3), dpi=80)
    for (name, path), colour in zip(paths.items(), colours):
        line = ((path - centre) @ plane).numpy()
        width = 0.9 if name == "student" else 2
        axes[0].plot(*line.T, color=colour, linewidth=width, label=name)
        axes[0].plot(*line[-1], marker="o", color=colour, markersize=5)
        axes[1].plot(np.arange(0, len(path), every), losses_of(walk, path, every), color=colour, linewidth=width,
                     label=name)
    axes[0].set_title("weights, projected onto the plane of largest movement (dot: the end)", fontsize=9)
    axes[1].set_title("cross entropy over all pixels", fontsize=9)
    axes[1].set(xlabel="step", yscale="log")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    return figure


def memory_of(decay: float, steps: int, window: float = 1.0) -> Tensor:  # (steps,), sums to 1
    "The share of each past student in the teacher after `steps` updates: student number k is the k-th unit vector."
    student = nn.Linear(steps, 1, bias=False)
    teacher = EMATeacher(student, decay, window)
    for step, unit in enumerate(torch.eye(steps)):
        student.weight.data.copy_(unit[None])
        teacher.update(student, step)
    return teacher.model.weight.detach()[0]


def memory_figure(decay: float = 0.9, after: Sequence[int] = (5, 10, 40),
                  windows: Sequence[float] = (1.0,)) -> plt.Figure:
    "How much of each past student is in the teacher, one row a window."
    figure, axes = plt.subplots(len(windows), len(after), figsize=(12, 2.1 * len(windows)), dpi=80, squeeze=False)
    for row, window in zip(axes, windows):
        for axis, steps in zip(row, after):
            axis.bar(range(steps), memory_of(decay, steps, window), color="#2f6db3")
            axis.set_title(f"window {window:g}, decay at most {decay:g}, after {steps} steps", fontsize=9)
            axis.set(xlabel="student of step", ylabel="share")
    figure.tight_layout()
    return figure
