"""Data sets: what they are, how they are read, and their images as uint8 arrays. Importing it imports no torch."""

from hat.data.datasets import DISTRACTOR_PID, JUNK_PID, ReIDDataset, Sample, Split, merge_training
from hat.data.images import decode_image, read_image
from hat.data.loading import check_images, iterate_batches, load_images
from hat.data.registry import detect_dataset, list_datasets, load_dataset, open_dataset

__all__ = [
    "DISTRACTOR_PID",
    "JUNK_PID",
    "ReIDDataset",
    "Sample",
    "Split",
    "check_images",
    "decode_image",
    "detect_dataset",
    "iterate_batches",
    "list_datasets",
    "load_dataset",
    "load_images",
    "merge_training",
    "open_dataset",
    "read_image",
]
