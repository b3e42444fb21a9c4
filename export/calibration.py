"""Images that a quantiser looks at, and the range of values that each tensor of a graph takes on them."""

from __future__ import annotations

import hashlib
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from hat.data.loading import load_images
from hat.data.records import JUNK_PID, ReIDDataset
from hat.errors import DataError, MissingExtraError, UsageError, WorkError
from hat.preprocessing import Preprocessing

from .onnx_trace import INPUT_NAME
from .request import Calibration

if TYPE_CHECKING:
    import onnx
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData

__all__ = ["METHODS", "CalibrationName", "calibration_details", "calibration_from", "tensor_ranges"]

CalibrationName = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[CalibrationName, ...] = ("minmax", "percentile", "entropy")

_IMAGES_AT_A_TIME = 4
"""Histograms need every tensor of these images at once: a few hundred megabytes each for the large models."""

_HISTOGRAM_BINS = {"percentile": 2048, "entropy": 512}
"""The search for the best cut takes time with the square of the bins: minutes for 2,048 of them."""


def calibration_from(
    dataset: ReIDDataset,
    preprocessing: Preprocessing,
    num_images: int = 512,
    seed: int = 0,
    *,
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Choose calibration images from the training split alone: a file must not have seen what it is measured on.

    Args:
        dataset: The data set.
        preprocessing: The model's.
        num_images: How many; all there are where they are fewer.
        seed: The choice depends on it and on the data set alone, not on the order in which files were listed.
        progress: Called with the number of images that were just read.

    Returns:
        The images and their list. Each path is written from the training images' common folder on, so that the list is the
        same on every machine.

    Raises:
        DataError: The data set has no training images.
        ImageError: An image cannot be used.
        UsageError: ``num_images`` is below 1.
    """
    if num_images < 1:
        raise UsageError(f"calibration needs at least 1 image, got {num_images}")
    paths = sorted(sample.path for sample in dataset.train if sample.pid != JUNK_PID)
    if not paths:
        raise DataError(f"{dataset.name} has no training images to calibrate on, and test images are never used for it")
    names = _from_common_folder(paths)
    order = np.random.default_rng(seed).permutation(len(paths))[:num_images]
    chosen = sorted(int(index) for index in order)
    images = load_images([paths[index] for index in chosen], preprocessing, progress=progress).numpy()
    return Calibration(images=images, paths=tuple(names[index] for index in chosen), dataset=dataset.name, seed=seed)


def calibration_details(calibration: Calibration) -> dict[str, Any]:
    """What an artefact records of its calibration images: how many, which, and a hash of their pixels."""
    digest = hashlib.sha256(np.ascontiguousarray(calibration.images).tobytes())
    return {
        "dataset": calibration.dataset,
        "split": "train",
        "seed": calibration.seed,
        "num_images": len(calibration.images),
        "pixels_sha256": digest.hexdigest(),
        "images": list(calibration.paths),
    }


def tensor_ranges(
    proto: onnx.ModelProto,
    operators: Sequence[str],
    images: npt.NDArray[np.uint8],
    *,
    method: CalibrationName = "minmax",
    percentile: float = 99.999,
    advance: Callable[[int], None] | None = None,
) -> TensorsData:
    """Range of every tensor that enters or leaves certain operators, over images.

    Args:
        proto: A floating-point model.
        operators: Operator types, such as ``["Conv", "MatMul"]``.
        images: (n, 3, H, W) uint8 RGB.
        method: ``"minmax"`` takes the extremes, ``"percentile"`` cuts off what lies beyond, ``"entropy"`` cuts where the
            quantised distribution differs least from the real one (Kullback-Leibler).
        percentile: Part of the values to keep, in percent.
        advance: Called with the number of images that were just run.

    Returns:
        Tensor name -> range, in ONNX Runtime's own type.

    Raises:
        WorkError: The model gives values that are not finite, or cannot be run.
        MissingExtraError: ONNX Runtime is not installed.
    """
    try:
        from onnxruntime.quantization import calibrate
    except ImportError as error:
        raise MissingExtraError(error.name or "onnxruntime", "export", "quantising") from None
    chosen: CalibrationMethod = {
        "minmax": calibrate.CalibrationMethod.MinMax,
        "percentile": calibrate.CalibrationMethod.Percentile,
        "entropy": calibrate.CalibrationMethod.Entropy,
    }[method]
    options: dict[str, Any] = {} if method == "minmax" else {"num_bins": _HISTOGRAM_BINS[method]}
    if method == "percentile":
        options |= {"percentile": percentile, "symmetric": False}
    # Its histograms tell of their progress on stdout, which belongs to results.
    with tempfile.TemporaryDirectory(prefix="hat-calibration-") as folder, redirect_stdout(io.StringIO()), _no_warnings():
        source = Path(folder) / "model.onnx"
        _save(proto, source)
        try:
            calibrator = calibrate.create_calibrator(
                source,
                list(operators),
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=chosen,
                extra_options=options,
                use_external_data_format=source.with_name("model.onnx.data").exists(),
            )
            calibrator.infer_session = _Float32Outputs(calibrator.infer_session)
            for start in range(0, len(images), _IMAGES_AT_A_TIME):
                batch = images[start : start + _IMAGES_AT_A_TIME]
                calibrator.collect_data(_Reader(proto, batch))
                if advance is not None:
                    advance(len(batch))
            ranges: TensorsData = calibrator.compute_data()
        except (ValueError, RuntimeError) as error:
            raise WorkError(f"calibration failed ({method}): {str(error).splitlines()[0]}") from error
    for name, data in ranges.items():
        if not np.all(np.isfinite([np.max(np.abs(end)) for end in data.range_value])):
            raise WorkError(f"calibration failed: the tensor {name} takes values that are not finite")
    return ranges


class _Float32Outputs:
    """A session whose half-precision outputs are float32: a histogram's edges would fall together in half precision."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, *arguments: Any) -> list[npt.NDArray[Any]]:
        outputs: list[npt.NDArray[Any]] = self._session.run(*arguments)
        return [output.astype(np.float32) if output.dtype == np.float16 else output for output in outputs]


class _Reader:
    """ONNX Runtime's calibrators ask for one input after another, then for None."""

    def __init__(self, proto: onnx.ModelProto, batch: npt.NDArray[np.uint8]) -> None:
        import onnx

        is_uint8 = proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
        self._inputs: Iterator[dict[str, Any]] = iter([{INPUT_NAME: batch if is_uint8 else batch.astype(np.float32)}])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._inputs, None)


@contextmanager
def _no_warnings() -> Iterator[None]:
    """numpy warns of what is not finite; it is looked for afterwards and raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _save(proto: onnx.ModelProto, path: Path) -> None:
    import onnx

    if proto.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF:
        path.write_bytes(proto.SerializeToString())
    else:
        moved = onnx.ModelProto()  # a copy, since saving moves the weights out of the model
        moved.CopyFrom(proto)
        onnx.save_model(moved, path, save_as_external_data=True, location=f"{path.name}.data")


def _from_common_folder(paths: Sequence[str]) -> list[str]:
    """Paths without the folders that they share, so that a list tells nothing of the machine that it was made on."""
    folders = [path.replace("\\", "/").split("/")[:-1] for path in paths]
    shared = 0
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        shared += 1
    # The last shared folder is kept: it is the split's own name, which tells that the images are training images.
    return ["/".join(path.replace("\\", "/").split("/")[max(0, shared - 1) :]) for path in paths]
