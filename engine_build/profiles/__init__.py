"""What is to be built, for which GPUs, and whether it fits."""
