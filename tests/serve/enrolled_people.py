"""What the tests of the commands share: drawn people, a small model, and videos."""

from fractions import Fraction

import numpy as np
import pytest
from tiny_hat import lively_hat

import hat
from hat.data.synth import generate_dataset
from hat.runtime import runtime_info
from hat.serve import Gallery, binding_of, enroll_images
from hat.serve.enroll.image_sources import ImageSources


def make_world(folder):
    """A data set of six drawn people (5 in query and gallery) seen by two cameras, and a checkpoint that knows nobody."""
    import torch

    torch.set_num_threads(1)
    folder.mkdir()
    generate_dataset(
        folder / "people",
        num_ids=6,
        num_cameras=2,
        images_per_camera=2,
        num_train_ids=1,
        num_distractors=2,
        size=(64, 32),
        num_workers=1,
    )
    save_model(folder / "model", seed=0)
    return folder


def new_gallery(path, embedder, inputs=(), **options):
    """A gallery of a model, with all images of some inputs."""
    gallery = Gallery.open(path, binding=binding_of(runtime_info(embedder.runtime)), create=True)
    enroll_images(gallery, embedder, ImageSources([str(one) for one in inputs]).items(), **options)
    return gallery


def save_model(folder, *, seed):
    hat.save_checkpoint(lively_hat(seed), folder)
    return folder


def write_video(path, num_frames, frame_of, *, codec="mpeg4", turned=0, times=None):
    """A video of (96, 128, 3) frames that `frame_of` gives by number, 10 a second or at their times in seconds."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 128, 96, "yuv420p", 8_000_000
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if turned:
            stream.set_display_rotation(turned)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(frame_of(number), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(1000 * times[number]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def coarse_noise(number):
    """(96, 128, 3) uint8 of random squares, which a video keeps."""
    return np.random.default_rng(number).integers(0, 255, (12, 16, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
