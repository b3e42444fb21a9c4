"""From nothing to a searched gallery, in a few minutes."""
