"""Do torch and ONNX Runtime on the GPU embed as torch on the CPU does, and what would TF32 have made of it?"""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from reporting import begin, noise

from hat.errors import HatError
from hat.runtime import TorchRuntime, open_runtime

BATCH = 8


def compare(session, name, reference, rows, durations=()):
    cosine = (reference * rows).sum(axis=1) / np.linalg.norm(rows, axis=1)
    speed = {"images_per_s": round(BATCH / float(np.median(durations)), 1)} if durations else {}
    session.report(name, worst_cosine=float(cosine.min()), max_abs=float(np.abs(reference - rows).max()), **speed)


def main() -> None:
    session = begin(__doc__)
    model = session.create_model()
    images = noise(model, BATCH)
    reference = TorchRuntime(model, "cpu").run(images)
    for name in session.steps(["torch_fp32", "torch_tf32", "torch_bf16", "torch_fp16", "onnxruntime_fp32"]):
        if name == "torch_tf32":  # by hand: a runtime of this package computes float32 in float32
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
            network, batch = model.to(session.device).eval(), torch.from_numpy(images).to(session.device)
            with torch.inference_mode():
                rows = network(model.preprocessing.normalize(batch)).cpu().numpy()
            compare(session, name, reference, rows)
        elif name.startswith("torch"):
            runtime = TorchRuntime(model, session.device, name.removeprefix("torch_"))
            durations = session.timed(partial(runtime.run, images))
            compare(session, name, reference, runtime.run(images), durations)
        else:
            from hat.export.to_onnx import export_onnx

            with tempfile.TemporaryDirectory() as folder:
                try:
                    export_onnx(model.cpu(), path := Path(folder) / "model.onnx")
                    runtime = open_runtime(path, session.device)
                except HatError as error:
                    session.report(name, failed=str(error))
                    continue
                durations = session.timed(partial(runtime.run, images))
                compare(session, name, reference, runtime.run(images), durations)
                session.report("onnxruntime_on_cpu", nodes=runtime.on_cpu)


if __name__ == "__main__":
    main()
