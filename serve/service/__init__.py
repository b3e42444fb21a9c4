"""The HTTP service: embeddings and ranked galleries for other programs."""
