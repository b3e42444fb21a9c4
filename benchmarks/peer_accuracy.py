"""Figures of a published OpenVINO re-ID model by our own evaluation.

A peer whose accuracy is known checks the data set, the protocol and the metric at once. The peers are Open Model Zoo's
person-reidentification-retail-* files: one input (1, 3, 256, 128), BGR, 0-255, one embedding that is not yet of unit length.

    python benchmarks/peer_accuracy.py person-reidentification-retail-0277.xml --data ~/data
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import openvino

import hat
from hat.data import open_dataset


class PeerRuntime:
    """An Open Model Zoo re-ID model behind the runtime contract of `hat.runtime.Runtime`."""

    max_batch = None

    def __init__(self, path: str, batch_size: int) -> None:
        model = openvino.Core().read_model(path)
        _, channels, height, width = model.input().shape
        model.reshape([batch_size, channels, height, width])
        self.compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        self.batch_size = batch_size
        self.preprocessing = hat.Preprocessing(height=height, width=width)
        self.embed_dim = int(model.output().shape[1])
        self.name = f"openvino {path.rpartition('/')[2]}"

    def run(self, images):
        batch = np.zeros((self.batch_size, *images.shape[1:]), np.float32)
        batch[: len(images)] = images[:, ::-1]  # RGB to BGR
        rows = self.compiled(batch)[0].reshape(self.batch_size, -1)[: len(images)]
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the .xml file")
    parser.add_argument("--data", required=True, help="a data set: DIR or NAME=DIR")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    dataset = open_dataset(options.data)
    runtime = PeerRuntime(options.model, options.batch_size)
    start = time.monotonic()
    result = hat.evaluate(hat.Embedder(runtime, batch_size=options.batch_size), dataset)
    seconds = time.monotonic() - start
    if options.json:
        print(json.dumps({"model": runtime.name, "dataset": dataset.name, **result.to_dict(), "seconds": round(seconds, 1)}))
    else:
        print(f"{runtime.name} on {dataset.name}: {result} in {seconds:.0f} s")


if __name__ == "__main__":
    main()
