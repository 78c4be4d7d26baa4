"""Students: targets, batches, loss, training loop, and all the students of a study."""
