"""Many studies at once: grids, cost estimates, status, clusters, and the command line."""
