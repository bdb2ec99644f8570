"""Every refusal of `integrate` is a ValueError that names the argument. Nothing is compiled."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import integrate

Z0 = np.ones((3, 2), np.float32)


def decay(params, t, z, x):
    return jax.tree.map(jnp.negative, z)


def refused(match, field=decay, params=None, z0=Z0, x=None, **options):
    with pytest.raises(ValueError, match=match):
        jax.eval_shape(lambda: integrate(field, params, z0, x, **options))


@pytest.mark.parametrize("adjoint", ["direct", "checkpointed", "backsolve"])
@pytest.mark.parametrize("batching", ["joint", "per_example"])
@pytest.mark.parametrize("wrapper", [lambda field: field, jax.jit, jax.checkpoint])
def test_parameters_through_a_closure_are_refused(adjoint, batching, wrapper):
    def loss(rate):
        field = wrapper(lambda params, t, z, x: -rate * z)
        return integrate(field, None, Z0, None, adjoint=adjoint, batching=batching).z.sum()

    for transformed in (jax.grad(loss), jax.jit(loss), jax.jit(jax.grad(loss))):
        with pytest.raises(ValueError, match=r"the field closes over a traced array.*`params`"):
            transformed(1.0)
    with pytest.raises(ValueError, match="the field closes over a traced array"):
        jax.vmap(loss)(jnp.ones(2))


def test_constants_through_a_closure_are_taken():
    rates = jnp.array([1.0, 2.0])
    out = jax.eval_shape(lambda: integrate(lambda p, t, z, x: -rates * z, None, Z0, None).z)
    assert out.shape == Z0.shape


@pytest.mark.parametrize(
    ("field", "match"),
    [
        (lambda p, t, z, x: z[:, :1], r"the field must return the shapes.*float32\[3, 2\], got"),
        (lambda p, t, z, x: z.sum(), r"the field must return the shapes.*got float32\[\]"),
        (lambda p, t, z, x: (z, z), "the field must return the structure of z0"),
        (lambda p, t, z, x: z.astype(jnp.bfloat16), "the field must return.*got bfloat16"),
        (lambda p, t, z, x: z > 0, "the field must return.*got bool"),
    ],
)
def test_fields_that_do_not_return_a_z_are_refused(field, match):
    refused(match, field=field)


def test_a_field_that_needs_the_whole_batch_is_refused_per_example():
    refused(
        r"float32\[1, 2\], got float32\[3, 2\]",
        lambda p, t, z, x: z + jnp.zeros((3, 2)),
        batching="per_example",
    )


@pytest.mark.parametrize(
    ("z0", "x", "match"),
    [
        (np.float32(1), None, "z0 must be an array with a leading batch axis"),
        (Z0, {"a": Z0, "b": np.float32(1)}, r"x\['b'\] must be an array with a leading batch axis"),
        (Z0, "text", "x must be an array with a leading batch axis, got str"),
        (Z0, np.ones((4, 2)), "x has batch size 4 but z0 has 3"),
        ({"a": Z0, "b": Z0[:2]}, None, r"z0\['b'\] has batch size 2 but z0\['a'\] has 3"),
        (Z0[:0], None, "z0 has batch size 0"),
        (None, None, "z0 has no array leaves"),
        (np.ones((3, 2), int), None, "z0 must be a real or complex array, got int"),
        ([Z0, np.ones(3, bool)], None, r"z0\[1\] must be a real or complex array, got bool"),
    ],
)
def test_states_and_conditions_without_a_common_batch_axis_are_refused(z0, x, match):
    refused(match, z0=z0, x=x)


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"solver": "dorpi5"}, "solver='dorpi5' is not one of .*Did you mean 'dopri5'"),
        ({"solver": 5}, "solver=5 is not one of"),
        ({"controller": "pidd"}, "controller='pidd' is not one of .*Did you mean 'pid'"),
        ({"adjoint": "checkpoint"}, "adjoint='checkpoint' is not one of .*mean 'checkpointed'"),
        ({"batching": "per-example"}, "batching='per-example' .*Did you mean 'per_example'"),
    ],
)
def test_misspelt_options_are_refused_with_a_hint(options, match):
    refused(match, **options)


@pytest.mark.parametrize("adjoint", ["implicit", diffrax.ImplicitAdjoint()])
def test_implicit_adjoints_are_refused_with_the_routes_that_are_right(adjoint):
    refused(
        "implicit adjoint needs an equilibrium.*'checkpointed', 'direct', 'backsolve'",
        adjoint=adjoint,
    )


def test_the_backsolve_of_diffrax_is_refused_in_favour_of_ours():
    refused("BacksolveAdjoint.*adjoint='backsolve'", adjoint=diffrax.BacksolveAdjoint())


PID = diffrax.PIDController(rtol=1e-3, atol=1e-3)


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"controller": PID, "rtol": 1e-3}, "rtol and atol belong to controller='pid'.*PIDContr"),
        ({"controller": PID, "atol": 1e-3}, "rtol and atol belong to controller='pid'"),
        ({"controller": "constant"}, "controller='constant' needs dt0"),
        ({"solver": "euler"}, "solver='euler' has no error estimate"),
        ({"solver": diffrax.Euler(), "controller": PID}, "solver='euler' has no error estimate"),
        ({"max_steps": 0}, "max_steps must be a positive integer, got 0"),
        ({"max_steps": 1.5}, "max_steps must be a positive integer, got 1.5"),
        ({"max_steps": None}, "max_steps must be a positive integer, got None"),
        ({"rtol": -1e-3}, "rtol must be a non-negative number, got -0.001"),
        ({"atol": float("nan")}, "atol must be a non-negative number, got nan"),
        ({"dt0": -0.1}, r"dt0=-0.1 must point from t0=0.0 to t1=1.0"),
        ({"dt0": 0.1, "t1": -1.0}, r"dt0=0.1 must point from t0=0.0 to t1=-1.0"),
        ({"dt0": 0.0}, "dt0=0.0 must point"),
    ],
)
def test_steps_that_cannot_be_taken_are_refused(options, match):
    refused(match, **options)


@pytest.mark.parametrize("kind", [list, np.array, jnp.array])
@pytest.mark.parametrize(
    ("times", "options"),
    [
        ([0.5, 1.5], {}),
        ([-0.1, 0.5], {}),
        ([0.5, 0.2], {}),
        ([0.2, 0.5], {"t1": -1.0}),
        ([-0.5, -0.2], {"t1": -1.0}),
        ([0.5, float("nan")], {}),
    ],
)
def test_times_to_save_at_outside_the_interval_or_out_of_order_are_refused(kind, times, options):
    refused("save_at must run from t0=", save_at=kind(times), **options)


@pytest.mark.wrong_types
@pytest.mark.parametrize("times", [0.5, [], [[0.5]]])
def test_times_to_save_at_that_are_no_vector_are_refused(times):
    refused("save_at must be a one-dimensional array", save_at=times)


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("mask", "got"),
    [(np.ones(3), "float"), (np.ones(2, bool), r"bool\[2\]"), (True, r"bool\[\]")],
)
def test_masks_that_are_no_bool_per_row_are_refused(mask, got):
    refused(rf"mask must be bool\[3\], got {got}", mask=mask)


@pytest.mark.parametrize("batching", ["joint", "per_example"])
def test_probes_of_a_wrong_shape_are_refused(batching):
    size = 3 if batching == "joint" else 2
    refused(
        rf"backward_probe must be a scalar.*got shape \[{size}\]",
        backward_probe=np.zeros(size),
        batching=batching,
    )


def rotation(params, t, z, x):
    return {"q": z["p"], "p": -z["q"]}


def test_gradients_of_backsolve_through_saved_states_are_refused_and_only_they():
    def loss(z0, of):
        z0 = {"q": z0, "p": z0}
        solution = integrate(rotation, None, z0, None, save_at=[0.5], adjoint="backsolve")
        return getattr(solution, of)["q"].sum()

    with pytest.raises(ValueError, match=r"backsolve.*no gradient through the saved states `zs`"):
        jax.eval_shape(lambda: jax.grad(loss)(Z0, "zs"))
    assert jax.eval_shape(lambda: jax.grad(loss)(Z0, "z")).shape == Z0.shape


def test_implicit_solvers_with_constant_steps_are_refused():
    refused(
        "tolerances for the implicit solver",
        solver=diffrax.Kvaerno3(),
        controller="constant",
        dt0=0.1,
    )


def test_implicit_solvers_are_refused_by_backsolve_per_example():
    refused(
        "takes explicit solvers, got Kvaerno3; use",
        solver=diffrax.Kvaerno3(),
        adjoint="backsolve",
        batching="per_example",
    )
