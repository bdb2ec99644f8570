"""Our training and inference beside PyTorch's, and beside the cost of field evaluations."""
