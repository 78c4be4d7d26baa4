"""Many studies at once: grids, their cost and state, clusters, the command line."""
