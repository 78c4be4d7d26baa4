"""Results: stored predictions, accuracies, paired differences, the published numbers."""
