from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def randomise():
    """Gives a model random weights and batch norms far from their initial state."""
    torch = pytest.importorskip("torch")

    def fill(model, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.running_mean.normal_(generator=generator)
                    module.running_var.uniform_(0.1, 4.0, generator=generator)
                    module.weight.normal_(generator=generator)
                    module.bias.normal_(generator=generator)
                elif isinstance(module, torch.nn.Conv2d):
                    deviation = (module.weight[0].numel()) ** -0.5
                    module.weight.normal_(0, deviation, generator=generator)
                    if module.bias is not None:
                        module.bias.normal_(generator=generator)
        return model.eval()

    return fill
