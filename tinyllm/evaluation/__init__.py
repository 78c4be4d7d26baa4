"""What came out: stored predictions, accuracies, paired differences, the published numbers."""
