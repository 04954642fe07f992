"""Make the example pair from one photograph.

    python examples/make_example.py seeding_by_Clements_Engelhardt.jpg

The reference is a crop of the photograph. The generated picture comes from a small neural network that was shown
the reference for a minute and then asked for every pixel by its coordinates: it gets the scene right and invents
its texture, as generators do.
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

SIZE, STEPS, FEATURES = 512, 700, 96
here = Path(__file__).parent

photograph = Image.open(sys.argv[1]).convert("RGB")
side = photograph.height
reference = photograph.crop((0, 0, side, side)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
reference.save(here / "ref.png")

torch.manual_seed(0)
axis = torch.linspace(-1, 1, SIZE)
where = torch.cartesian_prod(axis, axis)
waves = torch.randn(2, FEATURES) * 12
inputs = torch.cat([(where @ waves).sin(), (where @ waves).cos()], 1)
colours = pil_to_tensor(reference).permute(1, 2, 0).reshape(-1, 3) / 255
network = nn.Sequential(
    nn.Linear(2 * FEATURES, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 3), nn.Sigmoid()
)
optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
for _ in range(STEPS):
    seen = torch.randint(len(inputs), (8192,))
    loss = nn.functional.mse_loss(network(inputs[seen]), colours[seen])
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
with torch.no_grad():
    generated = network(inputs).reshape(SIZE, SIZE, 3).permute(2, 0, 1)
to_pil_image(generated).save(here / "gen.png")
