"""The public functions that find equilibria: `equilibrium` and `continuation`."""
