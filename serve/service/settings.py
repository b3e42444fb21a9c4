"""What a service allows: batches, queues, sizes, times and rates, each with a bound."""

from typing import Annotated

from pydantic import Field

from hat.config import config_dataclass

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


@config_dataclass
class ServiceSettings:
    """Bounds of a service. Everything that a stranger can make grow has one."""

    max_batch: Count = 32
    """Most images in one run of the model; lowered to what the runtime takes."""

    max_wait_s: Annotated[float, Field(ge=0)] = 0.005
    """How long a run waits for images that are being decoded; it never waits for ones that may not come."""

    max_queue: Count = 256
    """Images in the service at once, from the first byte to the answer; more are answered with 503."""

    max_images: Count = 64
    """Images in one request."""

    max_top: Count = 1000
    """Matches for each query of a search."""

    max_body_bytes: Count = 32 * 2**20
    """Bytes of one request's body."""

    max_inflight_bytes: Count = 256 * 2**20
    """Bytes of all bodies that are held at once; more are answered with 503."""

    max_pixels: Count = 25_000_000
    """Width times height of an image; a header that says more is refused before anything is decoded."""

    num_decoders: Count | None = None
    """Threads that decode and resize; None is one for each core."""

    num_store_threads: Count = 4
    """Threads that read and write galleries."""

    max_store_requests: Count = 64
    """Requests to galleries in work or waiting for a thread; more are answered with 503."""

    max_galleries: Count = 256
    """Galleries that the service may have open, those made over HTTP included."""

    receive_timeout_s: Seconds = 30.0
    """How long a body may take to arrive."""

    timeout_s: Seconds = 60.0
    """How long a request may take once its body is here; then it is answered with 504 and dropped."""

    rate_per_s: Seconds | None = None
    """Images a second for each key, a request without images counting as one; None is no limit."""

    hosts: tuple[str, ...] | None = None
    """Names that the Host header may have; None is any."""

    thumbnail_height: Count | None = None
    """Height of the pictures that are kept of enrolled images, in pixels; None keeps none."""
