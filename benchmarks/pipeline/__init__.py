"""Time of a pipeline run against the bare script that fits the same models."""
