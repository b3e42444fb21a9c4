"""What a run leaves and how it ends: its folder, its state, its log, and requests to stop."""
