"""The reference network in PyTorch with torchdiffeq, our own port: what a user would pick instead.

PyTorch's own layouts and defaults. Module names are those of `homoode_jax.networks`, so weights
go over by name.
"""

import numpy as np
import torch  # pyright: ignore
import torchdiffeq  # pyright: ignore
from torch import Tensor, nn  # pyright: ignore

from benchmarks.speed.worker import Side

ROUTES = {"direct": torchdiffeq.odeint, "adjoint": torchdiffeq.odeint_adjoint}


class _Encoder(nn.Module):
    """conv3x3 - BatchNorm - ReLU - conv3x3 (stride 2) - BatchNorm - ReLU."""

    def __init__(self, inputs: int, c: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, c, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(c)
        self.conv2 = nn.Conv2d(c, c, 3, stride=2, padding=1)
        self.norm2 = nn.BatchNorm2d(c)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(images)))
        return torch.relu(self.norm2(self.conv2(x)))


class _Field(nn.Module):
    """F(z; x), its condition set before a solve; counts its evaluations."""

    def __init__(self, c: int, groups: int):
        super().__init__()
        self.conv1 = nn.Conv2d(c, c, 3, padding=1)
        self.norm1 = nn.GroupNorm(groups, c)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, c)
        self.x = torch.zeros(())
        self.nfe = 0

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        del t
        self.nfe += 1
        return self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(z))) + self.x))


class _Head(nn.Module):
    """GroupNorm - ReLU - conv1x1 - BatchNorm - ReLU - global average pool - linear."""

    def __init__(self, c: int, width: int, classes: int, groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c)
        self.conv = nn.Conv2d(c, width, 1)
        self.norm2 = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, classes)

    def forward(self, z: Tensor) -> Tensor:
        hidden = torch.relu(self.norm2(self.conv(torch.relu(self.norm1(z)))))
        return self.linear(hidden.mean((2, 3)))


class _Classifier(nn.Module):
    """Encoder, solve from a fixed initial point, head."""

    def __init__(self, inputs: int, c: int, width: int, classes: int, groups: int):
        super().__init__()
        self.encoder = _Encoder(inputs, c)
        self.field = _Field(c, groups)
        self.head = _Head(c, width, classes, groups)
        self.z0 = torch.zeros(c)

    def forward(self, images: Tensor, route: str, tol: float) -> Tensor:
        field = self.field
        x = field.x = self.encoder(images)
        z0 = self.z0[None, :, None, None].expand_as(x).contiguous()
        # The adjoint has the gradient with respect to the condition too.
        params = {"adjoint_params": (*field.parameters(), x)} if route == "adjoint" else {}
        times = torch.tensor([0.0, 1.0], device=x.device)
        solve = ROUTES[route]
        return self.head(solve(field, z0, times, method="dopri5", rtol=tol, atol=tol, **params)[1])


def load(model: _Classifier, network: dict, batch_stats: dict, z0: np.ndarray) -> None:
    """Copies the weights of an `ImageClassifier`."""
    state = {name: torch.tensor(a) for tree in (network, batch_stats) for name, a in _named(tree)}
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    model.z0 = torch.tensor(z0)


def _named(tree: dict, prefix: str = ""):
    """Yields names and values as PyTorch has them."""
    names = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _named(value, f"{prefix}{key}.")
        else:
            value = np.asarray(value)
            axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim, range(value.ndim))
            yield f"{prefix}{names.get(key, key)}", value.transpose(axes).copy()


def make_side(
    shape: tuple[int, ...],
    weights: tuple,
    images: np.ndarray,
    labels: np.ndarray,
    route: str | None,
    tol: float,
    device: str = "cpu",
) -> Side:
    """Returns a step of Adam with a learning rate of 0; inference where `route` is None."""
    model = _Classifier(*shape)
    last = []
    load(model, *weights)
    model.to(device).train(route is not None)
    model.z0 = model.z0.to(device)
    pixels = torch.tensor(images.transpose(0, 3, 1, 2)).contiguous().to(device)
    targets = torch.tensor(labels).to(device)
    optimiser = torch.optim.Adam(model.parameters(), 0.0)

    def step() -> Tensor:
        if route is None:
            with torch.no_grad():
                return model(pixels, "direct", tol)
        optimiser.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(pixels, route, tol), targets)
        loss.backward()
        optimiser.step()
        return loss.detach()

    def repeat():
        model.field.nfe = 0
        last[:] = [step().cpu().numpy()]  # waits for a GPU

    def tell():
        logits = {"logits": last[0]} if route is None else {}
        return {"nfe_forward": model.field.nfe, **logits}

    return Side(repeat, tell)


def make_deq(kernels: tuple, x: np.ndarray, tol: float) -> Side:
    """Returns the step of a DEQ by TorchDEQ: two convolutions, Anderson's iteration both ways.

    Kernels and x come in the layout of ours, and their gradients go back in it.
    """
    from torchdeq import get_deq  # pyright: ignore

    weights = [_leaf(kernel, (3, 2, 0, 1)) for kernel in kernels]
    condition = _leaf(x, (0, 3, 1, 2))
    solvers = {f"{way}_{name}": value for way in "fb" for name, value in _DEQ.items()}
    deq = get_deq(ift=True, f_tol=tol, b_tol=tol, **solvers)
    counts = [0]
    last = []

    def cell(z: Tensor) -> Tensor:
        counts[0] += 1
        inner = nn.functional.conv2d(z, weights[0], padding=1)
        outer = nn.functional.conv2d(torch.relu(inner), weights[1], padding=1)
        return torch.tanh(outer + condition)

    def repeat():
        counts[0] = 0
        told = []
        start = torch.zeros_like(condition)
        states, info = deq(cell, start, backward_writer=told.append)
        loss = states[-1].square().mean()
        gradients = torch.autograd.grad(loss, [*weights, condition])
        last[:] = gradients, info, told[0], counts[0]

    def tell():
        (*by_kernels, by_x), info, back, evaluations = last
        parts = [g.permute(2, 3, 1, 0) for g in by_kernels] + [by_x.permute(0, 2, 3, 1)]
        return {
            "gradient": np.concatenate([part.numpy().ravel() for part in parts]),
            "nfe_forward": evaluations,
            "nfe_backward": float(back["nstep"].max()),
            "residual": float(info["rel_lowest"].max()),
        }

    return Side(repeat, tell)


_DEQ = {"solver": "anderson", "stop_mode": "rel", "max_iter": 200}


def _leaf(array: np.ndarray, axes: tuple[int, ...]) -> Tensor:
    """Returns an array in PyTorch's layout, to be differentiated by."""
    turned = np.ascontiguousarray(np.transpose(array, axes))
    return torch.from_numpy(turned).requires_grad_()
