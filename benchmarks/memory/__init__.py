"""Peak memory of snapshot and training against how it is done everywhere, by number of rows."""
