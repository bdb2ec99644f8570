"""What every solve needs: outcomes, checks, trees of arrays, and the guard of gradients."""
