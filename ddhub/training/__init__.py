"""From an artifact to a student: batches, the training loop, devices, and several processes."""
