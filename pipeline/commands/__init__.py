"""The commands of `slipway`, by subject; `pipeline.cli` puts them together."""
