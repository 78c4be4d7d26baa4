"""Students: what they learn, batches, the loss and the training loop, whole studies."""
