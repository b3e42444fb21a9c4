"""Folder, state and log of a run, and requests to stop it."""
