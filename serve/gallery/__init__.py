"""What a gallery is: records, their checks, and the model that it is bound to."""
