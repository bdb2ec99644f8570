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


class Encoder(nn.Module):
    """conv3x3 - BatchNorm - ReLU - conv3x3 (stride 2) - BatchNorm - ReLU."""

    def __init__(self, inputs: int, c: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, c, 3, 1, 1), nn.BatchNorm2d(c)
        self.conv2, self.norm2 = nn.Conv2d(c, c, 3, 2, 1), nn.BatchNorm2d(c)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the condition."""
        x = torch.relu(self.norm1(self.conv1(images)))
        return torch.relu(self.norm2(self.conv2(x)))


class Field(nn.Module):
    """F(z; x), its condition set before a solve; counts its evaluations."""

    def __init__(self, c: int, groups: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(c, c, 3, 1, 1), nn.GroupNorm(groups, c)
        self.conv2, self.norm2 = nn.Conv2d(c, c, 3, 1, 1), nn.GroupNorm(groups, c)
        self.x = torch.zeros(())
        self.nfe = 0

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Returns dz/dt."""
        del t
        self.nfe += 1
        hidden = self.conv2(torch.relu(self.norm1(self.conv1(z))) + self.x)
        return self.norm2(hidden)


class Head(nn.Module):
    """GroupNorm - ReLU - conv1x1 - BatchNorm - ReLU - global average pool - linear."""

    def __init__(self, c: int, width: int, classes: int, groups: int):
        super().__init__()
        self.norm1, self.conv = nn.GroupNorm(groups, c), nn.Conv2d(c, width, 1)
        self.norm2, self.linear = nn.BatchNorm2d(width), nn.Linear(width, classes)

    def forward(self, z: Tensor) -> Tensor:
        """Returns the logits."""
        hidden = torch.relu(self.norm2(self.conv(torch.relu(self.norm1(z)))))
        return self.linear(hidden.mean((2, 3)))


class Classifier(nn.Module):
    """Encoder, solve from a fixed initial point, head."""

    def __init__(self, inputs: int, c: int, width: int, classes: int, groups: int):
        super().__init__()
        self.encoder, self.field = Encoder(inputs, c), Field(c, groups)
        self.head = Head(c, width, classes, groups)
        self.z0 = torch.zeros(c)

    def forward(self, images: Tensor, route: str, rtol: float, atol: float) -> Tensor:
        """Returns the logits; the adjoint has the gradient with respect to the condition too."""
        field = self.field
        x = self.encoder(images)
        field.x = x
        z0 = self.z0[None, :, None, None].expand_as(x).contiguous()
        params = {"adjoint_params": (*field.parameters(), x)} if route == "adjoint" else {}
        times = torch.tensor([0.0, 1.0], device=x.device)
        tols = {"rtol": rtol, "atol": atol}
        z1 = ROUTES[route](field, z0, times, method="dopri5", **tols, **params)[1]
        return self.head(z1)


def load(model: Classifier, network: dict, batch_stats: dict, z0: np.ndarray) -> None:
    """Copies the weights of an `ImageClassifier`."""
    state = {
        name: torch.tensor(value) for tree in (network, batch_stats) for name, value in _named(tree)
    }
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    model.z0 = torch.tensor(z0)


def _named(tree: dict, prefix: str = ""):
    """Names and values as PyTorch has them."""
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
    """A step of training by Adam, with a learning rate of 0; inference where `route` is None."""
    model = Classifier(*shape)
    last = []
    load(model, *weights)
    model.to(device).train(route is not None)
    model.z0 = model.z0.to(device)
    pixels = torch.tensor(images.transpose(0, 3, 1, 2)).contiguous().to(device)
    targets = torch.tensor(labels).to(device)
    optimiser = torch.optim.Adam(model.parameters(), 0.0)

    def infer() -> Tensor:
        with torch.no_grad():
            return model(pixels, "direct", tol, tol)

    def step() -> Tensor:
        optimiser.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(pixels, route or "", tol, tol), targets)
        loss.backward()
        optimiser.step()
        return loss.detach()

    def repeat():
        model.field.nfe = 0
        last[:] = [(infer() if route is None else step()).cpu().numpy()]  # waits for a GPU

    def tell():
        logits = {"logits": last[0]} if route is None else {}
        return {"nfe_forward": model.field.nfe, **logits}

    return Side(repeat, tell)
