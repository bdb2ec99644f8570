"""Learned fields solved by Diffrax, and the gradients of that; knows nothing of cells."""
