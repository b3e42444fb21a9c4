"""The public names, said once: for type checkers, and for the package, which imports each at its first use."""

from .data import load_dataset as load_dataset
from .embedder import Embedder as Embedder
from .errors import HatError as HatError
from .evaluation import evaluate as evaluate
from .io.checkpoint import load_checkpoint as load_checkpoint
from .io.checkpoint import save_checkpoint as save_checkpoint
from .metrics import RankingResult as RankingResult
from .metrics import center_by_camera as center_by_camera
from .metrics import evaluate_embeddings as evaluate_embeddings
from .metrics import evaluate_ranking as evaluate_ranking
from .metrics import rerank as rerank
from .model import HAT as HAT
from .model import ModelConfig as ModelConfig
from .model import create_model as create_model
from .model import list_models as list_models
from .preprocessing import Preprocessing as Preprocessing
