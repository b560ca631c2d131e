"""A fit on a Ray cluster of this machine against one process, by number of rows."""
