"""Compute the features of torchvision's residual networks with known weights, for test_resnets.py.

The weights are made from the tensors' names, so that no file of them is needed. Run once, in an
environment of its own:
    pip install torch torchvision
    python tests/reference/torchvision_resnets.py
"""

import zlib
from pathlib import Path

import numpy as np

# Pixels of the photo of each case.
SIZES = {"resnet18": 64, "resnet18_odd": 75, "resnext_slim": 64, "resnext101": 64}


def tensor(name: str, shape: tuple) -> np.ndarray:
    """Make the values of a tensor from its name: those of kernels keep the scale of what passes a ReLU."""
    draws = np.random.default_rng(zlib.crc32(name.encode())).random(shape, dtype=np.float32)
    if len(shape) > 1:
        bound = np.float32(np.sqrt(6 / np.prod(shape[1:])))
        return (2 * draws - 1) * bound
    if name.endswith("running_var"):
        return draws + np.float32(0.5)
    if name.endswith("weight"):  # of a normalisation
        return (draws + 1) / 2
    return (draws - np.float32(0.5)) / 2


def photo(size: int) -> np.ndarray:
    """Make a photo as the networks take it: `float32` of shape `(1, size, size, 3)`."""
    return np.random.default_rng(size).uniform(-2, 2, (1, size, size, 3)).astype(np.float32)


def main():
    import torch
    from torchvision.models import resnet

    models = {
        "resnet18": resnet.resnet18,
        "resnet18_odd": resnet.resnet18,
        "resnext_slim": lambda: resnet.ResNet(resnet.Bottleneck, [1, 2, 1, 1], groups=32, width_per_group=8),
        "resnext101": resnet.resnext101_32x8d,
    }
    for case, size in SIZES.items():
        model = models[case]().eval()
        state = model.state_dict()
        shapes = {name: tuple(value.shape) for name, value in state.items() if value.ndim}
        made = {name: torch.from_numpy(tensor(name, shape)) for name, shape in shapes.items()}
        model.load_state_dict({**state, **made})
        maps = []
        model.layer4.register_forward_hook(
            lambda module, given, result, maps=maps: maps.append(result.numpy())
        )
        with torch.no_grad():
            model(torch.from_numpy(photo(size).transpose(0, 3, 1, 2)))
        np.savez_compressed(
            Path(__file__).with_name(f"{case}.npz"),
            features=maps[0].transpose(0, 2, 3, 1),
            names=list(shapes),
            shapes=[" ".join(map(str, shape)) for shape in shapes.values()],
        )


if __name__ == "__main__":
    main()
