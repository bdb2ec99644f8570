"""Solvers of this library on standard systems of nonlinear equations; see README.md."""
