"""The smallest run that still has every part of a real one, in the test's own process, and how to compare what runs leave."""

import json

import pytest
import torch
import yaml
from torch import nn

import hat
from hat.config import merge
from hat.data import merge_training
from hat.model import Branch, TrainingOutput
from hat.train import Trainer, compose_config
from hat.train.distributed import DistributedContext
from hat.train.run.run_folder import RunFolder
from hat.train.step import Batch

CPU = DistributedContext(torch.device("cpu"))

NUM_PIDS = 6  # of the data set that the fixture `market_folder` makes

TINY_RUN = {
    "model": {
        "image_size": [32, 16],
        "backbone": {"name": "mobilenet_v3_small"},
        "depths": [1, 0, 1, 0],
        "widths": [16, 16, 32, 32],
        "num_bottlenecks": 0,
        "transformer": {"num_heads": 2, "ffn_dim": 32},
    },
    "backbone_weights": "none",
    "num_epochs": 2,
    "sampler": {"num_identities": 4, "num_instances": 2},
    "augmentation": {"pad": 2},
    "schedule": {"kind": "constant", "warmup_epochs": 0},
    "log": {"every_steps": 1},
    "data": {"num_workers": 1},
}
NO_AUGMENTATION = {"pad": 0, "flip": 0, "erasing": 0}


def configure(**changes):
    return compose_config([("", TINY_RUN), ("", changes)])


def options_of_a_run(data, out, /, **changes):
    """Arguments of `hat train` for a tiny run."""
    recipe = out.with_name("tiny.yaml")
    recipe.write_text(yaml.safe_dump(merge(TINY_RUN, changes)))
    return ["market1501", "--config", str(recipe), "--data", str(data), "--out", str(out), "--device", "cpu"]


def some_batch(seed, size=8):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (size, 3, 32, 16), dtype=torch.uint8, generator=generator)
    return Batch(images, torch.arange(size) % 4, torch.arange(size) + 100 * seed, torch.arange(size))


class Plain(nn.Module):
    """A model without batch norm and dropout, so that two batches are the sum of their parts."""

    def __init__(self):
        super().__init__()
        self.mfe = nn.Linear(3 * 32 * 16, 8)
        self.dsa = nn.Linear(8, 8)
        self.classifier = nn.Linear(8, 4, bias=False)

    def forward(self, images):
        first = self.mfe(images.flatten(1))
        features = {"mfe": first, "tfc1": self.dsa(first.relu())}
        branches = {name: Branch(feature, self.classifier(feature)) for name, feature in features.items()}
        return TrainingOutput(branches, nn.functional.normalize(first, dim=1))


class FixedTeacher:
    """Knows one embedding for each training image."""

    embed_dim, fingerprint = 5, "fixed"

    def begin(self, folder):
        return

    def embed(self, images, indices):
        rows = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        return nn.functional.normalize(rows, dim=1).to(indices.device)[indices]


def run(config, dataset, out, *, resume=False, wrap=lambda images: images):
    trainer = Trainer(config, merge_training([dataset]), RunFolder(out), CPU, resume=resume, evaluation=dataset)
    trainer.images = wrap(trainer.images)
    trainer.folder.begin(config, resume=resume)
    return trainer.run()


def run_lines(out):
    """What a run wrote down, but for the time it took."""
    entries = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key != "images_per_s"} for entry in entries]


def read_state(out):
    return torch.load(out / "last" / "state.pt", weights_only=True)


def assert_same_weights(first, second):
    ours, theirs = (hat.load_checkpoint(folder).state_dict() for folder in (first, second))
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different, f"{len(different)} of {len(ours)} tensors differ, such as {different[0]}"


class InterruptionError(Exception):
    pass


def interrupt(config, dataset, out, num_batches):
    """Begin a run and end the process's work, as far as a process can tell, when one batch more is asked for."""
    left = num_batches

    def wrap(images):
        def batches(plan):
            nonlocal left
            for batch in images(plan):
                if not left:
                    raise InterruptionError
                left -= 1
                yield batch

        return batches

    with pytest.raises(InterruptionError):
        run(config, dataset, out, wrap=wrap)
