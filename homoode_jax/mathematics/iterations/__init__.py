"""Iterations z -> z' towards z = f(z): Picard, Anderson, Broyden, Newton-Krylov, relaxation."""
