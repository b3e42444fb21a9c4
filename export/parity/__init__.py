"""The proof that an exported file ranks as the trained model does."""
