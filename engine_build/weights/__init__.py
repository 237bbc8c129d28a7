"""What is done with the tensors of a checkpoint: read, checked, converted, cut."""
