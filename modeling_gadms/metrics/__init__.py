"""Metrics as modules of the `evaluate` library, one folder for each metric."""
