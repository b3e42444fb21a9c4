"""Triton as a runtime: the model runs on another machine, and its metadata comes from the server."""

import re
import threading
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hat.errors import CheckpointError, MissingExtraError, UsageError, WorkError, first_line
from hat.io.artifact import INPUT_NAME, METADATA_KEY, OUTPUT_NAME, ArtifactInfo, info_from_json
from hat.runtime.protocol import embed_images

_ADDRESS = re.compile(
    r"(?P<scheme>tritons?)://(?P<server>(?:\[[0-9A-Fa-f:.]+\]|[^\s/:@\[\]]+)(?::\d{1,5})?)"
    r"/(?P<model>[A-Za-z0-9_][A-Za-z0-9_.-]*)(?:/(?P<version>\d+))?/?"
)


class TritonAddress(NamedTuple):
    """Address of a served model: ``host:port``, its name and version there, the server's choice if empty, and TLS."""

    server: str
    model: str
    version: str
    is_encrypted: bool


def is_triton_address(text: str) -> bool:
    """Return whether a model is named by an address of this kind rather than a path."""
    return text.startswith(("triton://", "tritons://"))


def parse_triton_address(text: str) -> TritonAddress:
    """Read ``triton://host:port/model`` or ``triton://host:port/model/version``; ``tritons://`` is over TLS."""
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise UsageError(f"{text} is no address of a model: expected triton://host:port/model, or tritons:// over TLS")
    server = match["server"] if re.search(r":\d+$", match["server"]) else f"{match['server']}:8000"
    return TritonAddress(server, match["model"], match["version"] or "", match["scheme"] == "tritons")


class TritonRuntime:
    """Runs a model of a Triton server over HTTP. Calls may come from several threads: each has a connection of its own.

    The model is one that ``hat export --to triton`` made: what it is stands in its configuration, where the server keeps it;
    any other is a `CheckpointError`. A server that does not answer within ``timeout_s`` is a `WorkError`.
    """

    def __init__(self, address: str, *, timeout_s: float = 30.0) -> None:
        try:
            import tritonclient.http as protocol
            from tritonclient.utils import InferenceServerException
        except ImportError:
            raise MissingExtraError("tritonclient", "triton", "models on a Triton server") from None
        self._protocol, self._server_error = protocol, InferenceServerException
        self._address, self._source, self._timeout_s = parse_triton_address(address), address, timeout_s
        self._of_thread = threading.local()
        config = self._ask("get_model_config")
        self.info: ArtifactInfo = self._read_metadata(config)
        self._input_type = "UINT8" if self.info.input_type == "uint8" else "FP32"
        self._check(config)
        if not self._ask("is_model_ready"):
            raise WorkError(f"{address}: the server has the model, and it is not ready: its log says why")
        self._max_batch = int(config["max_batch_size"])
        self.max_batch: int | None = self._max_batch
        self.preprocessing, self.embed_dim = self.info.preprocessing, self.info.embed_dim
        self.name = f"triton {self.info.precision} {self._address.server}"

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embed images; see `hat.runtime.Runtime.run`. None give no rows; more than ``max_batch`` go in several requests."""
        return embed_images(self._embed, images, self.info)

    def _embed(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return np.concatenate(
            [self._infer(batch[start : start + self._max_batch]) for start in range(0, len(batch), self._max_batch)]
        )

    def _infer(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        tensor = self._protocol.InferInput(INPUT_NAME, list(batch.shape), self._input_type)
        tensor.set_data_from_numpy(batch, binary_data=True)
        output = self._protocol.InferRequestedOutput(OUTPUT_NAME, binary_data=True)
        answer = self._ask("infer", inputs=[tensor], outputs=[output])
        rows = answer.as_numpy(OUTPUT_NAME)
        if rows is None or rows.shape != (len(batch), self.embed_dim):
            raise WorkError(
                f"{self._source}: expected embeddings of shape ({len(batch)}, {self.embed_dim}), "
                f"got {None if rows is None else rows.shape}"
            )
        return np.asarray(rows, dtype=np.float32)

    def _ask(self, method: str, **arguments: Any) -> Any:
        """Call the server about the model, on this thread's connection."""
        address = self._address
        try:
            return getattr(self._client(), method)(address.model, model_version=address.version, **arguments)
        except self._server_error as error:
            if method == "get_model_config":
                raise CheckpointError(f"{self._source}: the server has no such model: {first_line(error)}") from None
            raise WorkError(f"{self._source}: the server refused: {first_line(error)}") from None
        except OSError as error:  # refused, unknown host, closed, timed out
            self._of_thread.client = None
            raise WorkError(
                f"{self._source}: no answer from {address.server}: {first_line(error)}; is tritonserver running there, and is "
                "this its HTTP port?"
            ) from None
        except ValueError as error:
            raise WorkError(f"{self._source}: {address.server} does not answer as Triton does: {first_line(error)}") from None

    def _client(self) -> Any:
        client = getattr(self._of_thread, "client", None)
        if client is None:
            client = self._of_thread.client = self._protocol.InferenceServerClient(
                self._address.server,
                connection_timeout=self._timeout_s,
                network_timeout=self._timeout_s,
                ssl=self._address.is_encrypted,
            )
        return client

    def _read_metadata(self, config: Any) -> ArtifactInfo:
        try:
            text = config["parameters"][METADATA_KEY]["string_value"]
        except (KeyError, TypeError):
            raise CheckpointError(
                f"{self._source}: the model was not made by hat export --to triton: its configuration has no parameter "
                f"{METADATA_KEY!r}"
            ) from None
        return info_from_json(text, self._source)

    def _check(self, config: Any) -> None:
        """Check that the server's tensors agree with the metadata."""
        expected = {
            "input": [(INPUT_NAME, f"TYPE_{self._input_type}", [3, *self.info.preprocessing.size])],
            "output": [(OUTPUT_NAME, "TYPE_FP32", [self.info.embed_dim])],
        }
        for role, tensors in expected.items():
            got = [(part["name"], part["data_type"], [int(size) for size in part["dims"]]) for part in config.get(role, [])]
            if got != tensors:
                raise CheckpointError(f"{self._source} is not what it says of itself: expected the {role} {tensors}, got {got}")
        if int(config.get("max_batch_size", 0)) < 1:
            raise CheckpointError(f"{self._source}: the server takes no batches: max_batch_size is below 1")
