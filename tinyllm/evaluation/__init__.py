"""Results: stored predictions, accuracies, paired differences."""
