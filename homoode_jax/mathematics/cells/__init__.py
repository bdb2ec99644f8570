"""What iterations and homotopies share: cells on vectors, GMRES, acceptance, implicit gradients."""
