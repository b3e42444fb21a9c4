"""Folders for servers: Triton and DeepStream."""
