"""The TensorRT runtime's buffers, stream and CUDA graphs, over a fake engine that computes at the addresses given."""

import tempfile
from pathlib import Path

import numpy as np
from reporting import begin

from hat.export.tensorrt.builder import build_engine
from hat.io.artifact import BatchProfile
from hat.runtime.tensorrt.runtime import TensorRTRuntime


def main() -> None:
    session = begin(__doc__)
    from fake_tensorrt import SIZE, fake_embeddings, fake_tensorrt, small_onnx

    images = np.random.default_rng(0).integers(0, 256, (40, 3, *SIZE), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.engine"
        build_engine(small_onnx(), path, profile=BatchProfile(min=1, opt=8, max=32), module=fake_tensorrt("11.4")[0])
        for name in session.steps(["captured", "not_captured"]):
            runtime = TensorRTRuntime(path, session.device, module=fake_tensorrt("11.4")[0], cuda_graph=name == "captured")
            runtime.warm_up()
            for count in (1, 3, 32, 40):
                batch = images[:count]
                largest = float(np.abs(runtime.run(batch) - fake_embeddings(batch)).max())
                durations = session.timed(lambda batch=batch, runtime=runtime: runtime.run(batch), share=0.05)
                median = round(1e6 * float(np.median(durations)))
                session.report(name, batch=count, graphs=sorted(runtime.graphs), max_abs=largest, median_us=median)


if __name__ == "__main__":
    main()
