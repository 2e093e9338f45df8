"""What the notebooks import: flat, one noun per module."""
