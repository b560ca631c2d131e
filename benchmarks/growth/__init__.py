"""How time and memory grow with the number of specs, versions, trials, candidates and values of a metric."""
