"""Paths of homotopies from z0 to a root, by predictor and corrector."""
