"""What a built engine must show before it is one: answers, precision, ranks that agree."""
