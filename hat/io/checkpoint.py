"""Checkpoints: a folder with ``model.safetensors`` and ``config.json``, from which the same model comes back bit for bit."""

import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from hat.config import apply_overrides, config_dataclass, config_to_dict
from hat.errors import CheckpointError, WeightsError
from hat.io.artifact import metadata_from_json, read_model_file
from hat.io.atomic_output import write_atomically, writing
from hat.io.weights import load_state, read_state_file, read_weights_file, state_of, submodule_attribute
from hat.model import HAT, ModelConfig
from hat.model.released import is_released_state, released_config, translate_released_state
from hat.preprocessing import Preprocessing

SHIPPED_MODEL = "hat_mobilenet_v2_market1501"
"""Name of the small trained model that comes with the package."""

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
FORMAT_VERSION = 1


@config_dataclass
class CheckpointInfo:
    """Contents of ``config.json``."""

    format_version: int
    """Version of this layout; a newer one than this package knows is refused."""

    model: ModelConfig
    """The architecture."""

    num_classes: int
    """Number of identities that the classifiers tell apart."""

    preprocessing: Preprocessing
    """Preprocessing of images."""

    training: dict[str, Any]
    """The training configuration, as plain data; empty where it is unknown."""

    metrics: dict[str, Any]
    """Metrics measured with these weights, as plain data."""

    versions: dict[str, str]
    """Versions of the libraries that wrote the checkpoint."""


def shipped_model() -> Path | None:
    """Return the folder of the small trained model that comes with the package; None where its files are not there."""
    folder = Path(__file__).resolve().parents[1] / "models" / SHIPPED_MODEL
    return folder if all((folder / name).is_file() for name in (WEIGHTS_FILE, CONFIG_FILE, "MODEL_CARD.md")) else None


def locate_model(path: str | os.PathLike[str]) -> Path:
    """Return where a model lies: the path with ``~`` expanded, or the shipped model's folder for its name.

    Something of that name that is there comes first.
    """
    location = Path(path).expanduser()
    if os.fspath(path) == SHIPPED_MODEL and not location.exists():
        return shipped_model() or location
    return location


def save_checkpoint(
    model: HAT,
    folder: str | os.PathLike[str],
    *,
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    half: bool = False,
) -> Path:
    """Write a checkpoint.

    Each of the two files is replaced atomically, the weights first: whatever ends the process, a folder that could be read
    before can be read afterwards.

    Args:
        model: The model.
        folder: Where to; made if it is not there.
        training: The training configuration, as plain data.
        metrics: Figures measured with these weights, and the ``dataset`` they belong to, as plain data.
        half: Keep matrices and filters as float16, half the size; norms and biases, whose variances may be tiny, stay float32.

    Returns:
        The folder.

    Raises:
        ConfigError: ``training`` or ``metrics`` hold something else; nothing is written.
        WorkError: The files cannot be written.
    """
    folder = Path(folder).expanduser()
    info = CheckpointInfo(
        format_version=FORMAT_VERSION,
        model=model.config,
        num_classes=model.num_classes,
        preprocessing=model.preprocessing,
        training=dict(training or {}),
        metrics=dict(metrics or {}),
        versions={name: version(name) for name in ("hat-reid", "torch", "torchvision", "safetensors")},
    )
    config = (json.dumps(config_to_dict(info), indent=2) + "\n").encode()  # before anything is written: it may be refused
    # Clones are laid out densely: safetensors refuses shared storage, and channels_last strides would not be kept anyway.
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    if half:
        state = {name: value.half() if value.dim() > 1 else value for name, value in state.items()}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS_FILE, save(state, metadata={"format": "pt"}))
    write_atomically(folder / CONFIG_FILE, config)
    return folder


def read_checkpoint_info(folder: str | os.PathLike[str]) -> CheckpointInfo:
    """Read what a checkpoint says of itself, without its weights; a `CheckpointError` where that cannot be read."""
    folder = locate_model(folder)
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} is no checkpoint: expected a folder with {WEIGHTS_FILE} and {CONFIG_FILE}")
    text = read_model_file(path, "a configuration")
    return metadata_from_json(CheckpointInfo, text, newest=FORMAT_VERSION, source=str(path))


def load_checkpoint(folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> HAT:
    """Load the model of a checkpoint, or by its name the one that comes with the package, in evaluation mode.

    Raises:
        CheckpointError: The folder is no checkpoint, or its weights do not belong to its configuration.
    """
    folder = locate_model(folder)
    info = read_checkpoint_info(folder)
    try:
        state = read_state_file(folder / WEIGHTS_FILE)
        model = _build(info, state)
        load_state(model, state, str(folder / WEIGHTS_FILE))
    except WeightsError as error:
        raise CheckpointError(str(error)) from None
    return model.to(device).eval()


def load_released_weights(
    path: str | os.PathLike[str], *, last_stride: Literal[1, 2] | None = None, image_size: tuple[int, int] | None = None
) -> tuple[HAT, str]:
    """Load a checkpoint of HAT's released code, of any depths and ResNet: a state dict, or a whole pickled model.

    A state dict does not tell the stride of the backbone's last level, a whole model does; ``image_size`` is needed where
    images are not twice as high as wide. Returned are ``hat_resnet50_released``, or its variant, in evaluation mode, and one
    sentence that says what was dropped. A file that cannot be read, or does not fit, is a `WeightsError`.
    """
    path = Path(path)
    content = read_weights_file(path)
    state = state_of(content, path)
    if not is_released_state(state):
        raise WeightsError(f"{path} has not the names of HAT's released code: expected base.* and HAT.TFC_S*")
    translation = translate_released_state(state)
    if translation.unknown:
        raise WeightsError(f"{path} holds {len(translation.unknown)} unknown tensors, such as {translation.unknown[0]}")
    recorded = _recorded_stride(content)
    if (last_stride or recorded) not in (1, 2):
        raise WeightsError(
            f"{path}: a state dict does not tell the stride of the backbone's last level, with which the released code was run "
            f"as 1 and as 2; say which by `hat convert {path} --last-stride 1|2 --out DIR`, and give the folder"
        )
    if None not in (last_stride, recorded) and last_stride != recorded:
        raise WeightsError(f"{path} was made with a last stride of {recorded}, not {last_stride}")
    classifier = translation.state.get("classifiers.mfe.weight")
    if classifier is None or classifier.dim() != 2:
        raise WeightsError(f"{path} holds no classifier_b.weight, which tells the number of identities")
    config = released_config(translation.state, last_stride=last_stride or recorded, image_size=image_size, source=str(path))
    model = HAT(config, num_classes=len(classifier))
    load_state(model, translation.state, str(path))
    num_values = sum(tensor.numel() for tensor in translation.dropped.values())
    dropped = f"{len(translation.dropped)} tensors with {num_values / 1e6:.1f} M values that nothing reads"
    return model.eval(), f"loaded {len(translation.state)} tensors of the released code, dropped {dropped}"


def _recorded_stride(content: Any) -> Any:
    """Return the stride of the last level that a whole pickled model has, None for a state dict."""
    for root in ("", "module."):
        for convolution in ("conv1", "conv2", "conv3"):
            stride = submodule_attribute(content, f"{root}base.layer4.0.{convolution}", "stride")
            if stride == (2, 2):
                return 2
            if stride is not None and convolution == "conv2":
                return 1
    return None


def _build(info: CheckpointInfo, state: Mapping[str, Tensor]) -> HAT:
    """Build the model of a checkpoint, its stages as wide as they are stored where the configuration leaves that open.

    The last stage was as wide as the CNN's last map even where it was the only one or where that map was cut off.
    """
    model = HAT(info.model, info.num_classes, info.preprocessing)
    tokens = {level: state.get(f"dsa.tfc{level}.cls_token") for level in info.model.levels}
    widths = {level: token.shape[-1] for level, token in tokens.items() if token is not None and token.dim() == 3}
    own = {level: model.get_parameter(f"dsa.tfc{level}.cls_token").shape[-1] for level in info.model.levels}
    if info.model.widths is not None or widths == own or len(widths) < len(own):
        return model
    config = apply_overrides(info.model, {"widths": [widths.get(level, 1) for level in range(1, 5)]})
    return HAT(config, info.num_classes, info.preprocessing)
