"""One step on two processes: a table for runtime/batchnorm."""

import tempfile
from collections.abc import Sequence

import pandas as pd
import torch
import torch.distributed
from torch import Tensor

from stal_nb.labels import Sample
from stal_nb.models import ARCHITECTURES, SegmentationNetwork, named_tensors
from stal_nb.runtime.batchnorm import synchronise_batchnorm

# BatchNorm on two processes


def shared_step(
    model: SegmentationNetwork,
    images: Tensor,  # (B,3,H,W) of this process
    total: int,  # images of all processes together
) -> dict[str, Tensor]:
    "Logits, running statistics and gradients of one training pass of a network whose batch is spread over processes."
    model.train().zero_grad()
    output = model(images)
    (output.logits.square().sum() / total).backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(gradients)
    statistics = torch.cat([t for name, t in named_tensors(model).items()
                            if name.endswith(("running_mean", "running_var"))])
    return {"logits": output.logits.detach(), "running statistics": statistics.clone(), "gradients": gradients}


def small_dropless_network(backbone: str, seed: int = 0) -> SegmentationNetwork:
    "A small network whose training pass has no chance in it."
    torch.manual_seed(seed)
    return ARCHITECTURES["deeplabv3plus"](backbone, 19, embedding_dim=8, weights=None, aspp_channels=16, dropout=0.0,
                                          aux_head=False).double()


def process_of_two(rank: int, folder: str, backbone: str) -> None:
    "One of the two processes of `two_processes_table`: looks at every second image, with both kinds of BatchNorm."
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    images = torch.load(f"{folder}/images.pt", weights_only=True)
    for name, prepare in (("each its own", lambda model: model), ("synchronised", synchronise_batchnorm)):
        found = shared_step(prepare(small_dropless_network(backbone)), images[rank::2], len(images))
        torch.save(found, f"{folder}/{name} {rank}.pt")
    torch.distributed.destroy_process_group()


def two_processes_table(samples: Sequence[Sample], backbone: str = "tf_efficientnet_lite0") -> pd.DataFrame:
    "Largest difference between one process with all images and two that share them, relative to the largest value."
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        images = torch.stack([s.image for s in samples]).double()
        torch.save(images, f"{folder}/images.pt")
        torch.multiprocessing.spawn(process_of_two, (folder, backbone), nprocs=2)
        expected = shared_step(small_dropless_network(backbone), images, len(images))
        table = {}
        for name in ("each its own", "synchronised"):
            halves = [torch.load(f"{folder}/{name} {rank}.pt", weights_only=True) for rank in range(2)]
            found = {**halves[0], "logits": torch.stack([half["logits"] for half in halves], 1).flatten(0, 1)}
            table[name] = {what: float((found[what] - value).abs().max() / value.abs().max())
                           for what, value in expected.items()}
    return pd.DataFrame(table)
