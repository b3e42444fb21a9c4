"""What the model is shown: which images make a batch, where they come from, and how they are changed."""
