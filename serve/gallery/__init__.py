"""Parts of a gallery that all stores share: records, their checks, and the binding to a model."""
