"""Made tiny_zip.pth and tiny_legacy.pth: PyTorch's two formats, with what a state dictionary may hold.

Run once with PyTorch 2.13 (no part of this project's environment): python tests/reference/tiny_checkpoints.py
"""

from collections import OrderedDict
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
STATE = OrderedDict(
    plain=torch.arange(6, dtype=torch.float32).reshape(2, 3) / 4,
    transposed=torch.arange(6, dtype=torch.float32).reshape(2, 3).t(),
    tail=torch.arange(10, dtype=torch.float64)[4:8],
    long=torch.tensor([[-1, 2**40]], dtype=torch.int64),
    half=torch.tensor([0.5, -2.0, 65504.0], dtype=torch.float16),
    empty=torch.zeros((0, 3)),
    scalar=torch.tensor(7, dtype=torch.int32),
    flags=torch.tensor([True, False]),
    parameter=torch.nn.Parameter(torch.tensor([1.5, 2.5])),
)

if __name__ == "__main__":
    content = {"epoch": 3, "state_dict": STATE}
    torch.save(content, FOLDER / "tiny_zip.pth")
    torch.save(content, FOLDER / "tiny_legacy.pth", _use_new_zipfile_serialization=False)
