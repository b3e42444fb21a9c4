"""Files that a model is kept in: checkpoints, artifacts, weights of others, and writing without half-written files."""
