"""Retrieval metrics: mAP, CMC and mINP from distances or from embeddings, and k-reciprocal re-ranking."""

from hat.metrics.blockwise import evaluate_embeddings
from hat.metrics.ranking import evaluate_ranking
from hat.metrics.reranking import rerank
from hat.metrics.result import RankingResult

__all__ = ["RankingResult", "evaluate_embeddings", "evaluate_ranking", "rerank"]
