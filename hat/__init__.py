"""HAT: person re-identification with Hierarchical Aggregation Transformers, from training to a ranked gallery.

Names are imported when they are first used, so that ``import hat`` and ``hat --help`` cost no import of torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hat.lazy_names import lazy_names
from hat.telemetry import disable_telemetry

disable_telemetry()

if TYPE_CHECKING:
    from hat.data import load_dataset
    from hat.embedder import Embedder
    from hat.errors import HatError
    from hat.evaluation import evaluate
    from hat.io.checkpoint import load_checkpoint, save_checkpoint
    from hat.metrics import RankingResult, center_by_camera, evaluate_embeddings, evaluate_ranking, rerank
    from hat.model import HAT, ModelConfig, create_model, list_models
    from hat.preprocessing import Preprocessing

__all__ = [
    "HAT",
    "Embedder",
    "HatError",
    "ModelConfig",
    "Preprocessing",
    "RankingResult",
    "center_by_camera",
    "create_model",
    "evaluate",
    "evaluate_embeddings",
    "evaluate_ranking",
    "list_models",
    "load_checkpoint",
    "load_dataset",
    "rerank",
    "save_checkpoint",
]

_HOMES = {
    "HAT": "hat.model",
    "Embedder": "hat.embedder",
    "HatError": "hat.errors",
    "ModelConfig": "hat.model",
    "Preprocessing": "hat.preprocessing",
    "RankingResult": "hat.metrics",
    "center_by_camera": "hat.metrics",
    "create_model": "hat.model",
    "evaluate": "hat.evaluation",
    "evaluate_embeddings": "hat.metrics",
    "evaluate_ranking": "hat.metrics",
    "list_models": "hat.model",
    "load_checkpoint": "hat.io.checkpoint",
    "load_dataset": "hat.data",
    "rerank": "hat.metrics",
    "save_checkpoint": "hat.io.checkpoint",
}

__getattr__, __dir__ = lazy_names(__name__, globals(), _HOMES)
