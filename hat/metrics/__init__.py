"""Retrieval metrics: mAP, CMC and mINP from distances or from embeddings, camera centering and k-reciprocal re-ranking."""

from hat.metrics.embeddings import CameraMeans, center_by_camera
from hat.metrics.ranking import RankingResult, evaluate_embeddings, evaluate_ranking
from hat.metrics.reranking import rerank

__all__ = ["CameraMeans", "RankingResult", "center_by_camera", "evaluate_embeddings", "evaluate_ranking", "rerank"]
