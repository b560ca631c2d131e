"""A candidate fitted by the workers of a Ray cluster; the only importer of ray."""
