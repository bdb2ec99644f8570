"""Audits: is it an equilibrium, is it stable, where is the path near a fold, is it explained?

Of a cell f at a point or along a path (see `cells` and `residuals`):
    residual, spectral_radius, sigma_min, path_length, convergence
Of a learned field F (see `fields` and `explanation`):
    field_norms, defect, explain
For people (see `plots`):
    plot

Every number is there for each example of the batch. Plain functions of arrays; all but `plot`
may be jitted. None is meant to be differentiated.
"""

from homoode_jax.mathematics.audit.cells import path_length, sigma_min, spectral_radius
from homoode_jax.mathematics.audit.explanation import Explanation, explain
from homoode_jax.mathematics.audit.fields import FieldNorms, Points, defect, field_norms
from homoode_jax.mathematics.audit.plots import plot
from homoode_jax.mathematics.audit.residuals import convergence, residual
from homoode_jax.mathematics.audit.spectra import Estimate

__all__ = [
    "Estimate",
    "Explanation",
    "FieldNorms",
    "Points",
    "convergence",
    "defect",
    "explain",
    "field_norms",
    "path_length",
    "plot",
    "residual",
    "sigma_min",
    "spectral_radius",
]
