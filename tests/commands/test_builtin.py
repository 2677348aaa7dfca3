"""Every verb takes a model that ships with deepseg: tried with a tiny one in its place."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch

import deepseg
import deepseg.builtin
from deepseg.config.cases import Preparation
from deepseg.inference.predictor import Predictor
from deepseg.model.checkpoint import read_checkpoint
from deepseg.model.provenance import Provenance

TINY = "builtin:tiny"
MODEL = """\
name: NAME
channels: [CHANNELS]
classes: [background, csf, lesion]
normal: {feature_maps: [3, 4]}
subsampled: {factors: [3]}
fc: {feature_maps: [5], dropout: [0, 0.2]}
segments: {train: 11}
"""
TEST = "name: NAME\noutput: .\ncases: {table: cases.csv}\nsave: {pictures: false}\n"
AFFINE = np.diag([-1.0, 1.0, 1.0, 1.0])


def write_model(file, name, *, channels="image"):
    file.write_text(MODEL.replace("NAME", name).replace("CHANNELS", channels))
    return file


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The folder of a package with one tiny model, whose layers do something."""
    folder = tmp_path_factory.mktemp("builtin")
    described = write_model(folder / "model.yaml", "tiny")
    new = deepseg.new_model(described, out=folder / "new.save", quiet=True)
    model = read_checkpoint(new)
    rng = torch.Generator().manual_seed(1)
    for tensor in model.weights.values():
        if tensor.ndim == 1 and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5, generator=rng)
    provenance = Provenance(seed=0).trained("tiny", epochs=3)
    (folder / "package").mkdir()
    replace(model, provenance=provenance, preparation=Preparation(roi="nonzero")).write(
        folder / "package" / "tiny.save"
    )
    return folder / "package"


@pytest.fixture
def folder(package, tmp_path, monkeypatch):
    """A user's folder with an image."""
    monkeypatch.setattr(deepseg.builtin, "FOLDER", package)
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).integers(1, 99, (19, 23, 21)).astype(np.int16)
    image[:4] = 0
    nibabel.save(nibabel.Nifti1Image(image, AFFINE), tmp_path / "T1.nii.gz")
    return tmp_path


def labels(file):
    return np.asarray(nibabel.load(file).dataobj)


def test_show_prints_and_draws_it(folder, begin, capsys):
    assert begin("-show", TINY) == 0
    printed = capsys.readouterr().out
    assert "trained by tiny" in printed
    assert deepseg.show(TINY).splitlines()[:3] == printed.splitlines()[:3]
    assert begin("-show", TINY, "-out", "network.svg") == 0
    assert begin("-show", "builtin:tiney") == 2
    assert capsys.readouterr().err == (
        "ERROR [builtin-unknown] got builtin:tiney; expected one of builtin:tiny; fix: correct the "
        "name, or give the path of a .save; did you mean 'tiny'?\n"
    )


def test_an_image_is_segmented_without_any_settings(folder, begin):
    assert begin("-segment", TINY, "T1.nii.gz", "-out", "out") == 0
    segmented = Predictor(TINY).segment({"image": "T1.nii.gz"}).labels
    assert np.array_equal(labels("out/T1_Segm.nii.gz"), segmented)
    assert len(np.unique(segmented)) > 1


def test_it_is_the_model_of_a_test_file(folder, begin):
    (folder / "cases.csv").write_text("case,channel_image\na,T1.nii.gz\n")
    (folder / "typed.yaml").write_text(TEST.replace("NAME", "typed"))
    (folder / "written.yaml").write_text(TEST.replace("NAME", "written") + f"model: {TINY}\n")
    assert begin("-test", "typed.yaml", "-model", TINY) == 0
    assert begin("-test", "written.yaml") == 0
    typed, written = (labels(f"{name}/predictions/a_Segm.nii.gz") for name in ("typed", "written"))
    assert np.array_equal(typed, written)


@pytest.mark.parametrize(
    ("channels", "note"),
    [
        (["T1"], "T1 takes over the kernels of image"),
        (["FLAIR", "T1c", "T2"], "FLAIR, T1c, T2 share the kernels of image: 1/3 each"),
    ],
)
def test_any_number_of_channels_is_filled(channels, note, folder, begin):
    write_model(folder / "model.yaml", "new", channels=", ".join(channels))
    assert begin("-newModel", "model.yaml", "-pretrained", TINY, "-out", "new.save") == 0
    older, new = read_checkpoint(TINY).weights, read_checkpoint("new.save").weights
    for first in ("normal.1.conv.weight", "sub1.1.conv.weight"):
        shared = older[first].repeat(1, len(channels), 1, 1, 1) / len(channels)
        torch.testing.assert_close(new[first], shared)
    for deep in ("normal.2.conv.weight", "sub1.2.conv.weight", "fc.1.conv.weight"):
        assert torch.equal(new[deep], older[deep])
    plan = deepseg.plan_transfer("model.yaml", TINY, quiet=True)
    rows = {row.layer: row.new for row in plan.layers}
    assert rows["normal.1"] == rows["sub1.1"] == note


@pytest.mark.parametrize(
    ("words", "wider"),
    [((), {}), (("-width", "net2net"), {"[3, 4]": "[5, 6]", "[5]": "[8]"})],
    ids=["as wide", "wider"],
)
def test_the_mean_of_the_channels_gives_what_one_gave(words, wider, folder, begin, capsys):
    model = write_model(folder / "model.yaml", "new", channels="FLAIR, T1c")
    for old, new in wider.items():
        model.write_text(model.read_text().replace(old, new))
    transfer = ("-pretrained", TINY, "-layers", "all", *words, "-out", "new.save")
    assert begin("-newModel", "model.yaml", *transfer) == 0
    promise = "the function is kept, of the mean of channels that share kernels"
    assert (promise in capsys.readouterr().out) == bool(wider)
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(2, 17, 19, 18)).astype(np.float32)
    images = {"image": (first + second) / 2, "FLAIR": first, "T1c": second}
    prepared = {"preparation": {"z_score": "none", "roi": None}}
    maps = [
        Predictor(name, {"accept": ["preparation"]}, **prepared)
        .segment({c: images[c] for c in channels}, spacing_mm=1, probabilities=True)
        .probabilities
        for name, channels in ((TINY, ["image"]), ("new.save", ["FLAIR", "T1c"]))
    ]
    for name, probability in maps[0].items():
        np.testing.assert_allclose(maps[1][name], probability, atol=1e-5)
