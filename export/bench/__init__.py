"""Speed, latency and memory of models and files, side by side."""
