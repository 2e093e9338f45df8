"""What the notebooks import: one package per step of the pipeline, one noun per module."""
