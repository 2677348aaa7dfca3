"""Networks of Keras files: what Keras computes is computed; other code is never run."""

import json
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from deepseg.errors import DeepsegError
from deepseg.model.graph.geometry import graph_geometry
from deepseg.model.graph.network import GraphNetwork
from deepseg.transfer.sources.keras.network import read_keras

FILES = Path(__file__).parent / "files"
RESULTS = dict(np.load(FILES / "results.npz"))
IMAGE = {"class_name": "InputLayer", "config": {"name": "image", "batch_input_shape": None}}


def to_graph(images):
    """Channels in front, as in a graph."""
    return torch.from_numpy(np.moveaxis(images, -1, 1).copy())


def computed(graph, image):
    network = GraphNetwork(graph, drops_softmax=False).eval()
    with torch.no_grad():
        return [np.moveaxis(y.numpy(), 1, -1) for y in network(to_graph(image))]


def layer(kind, name, *reads, **config):
    """A layer as rmldnn lists it; it reads the layers that are named."""
    nodes = [[[read, 0, 0, {}] for read in reads]]
    return {"class_name": kind, "config": {"name": name, **config}, "inbound_nodes": nodes}


def chain(folder, *layers, channels=1, arrays=None, size=(None, None, None)):
    """A file ``net.json``, a list of layers, with weights by name beside it."""
    image = json.loads(json.dumps(IMAGE))
    image["config"]["batch_input_shape"] = [None, *size, channels]
    (folder / "net.json").write_text(json.dumps([image, *layers]))
    if arrays is not None:
        with h5py.File(folder / "net.h5", "w") as file:
            names = [entry["config"]["name"] for entry in layers]
            file.attrs["layer_names"] = [name.encode() for name in names]
            for name in names:
                group = file.create_group(name)
                values = arrays.get(name, [])
                group.attrs["weight_names"] = [f"w{n}".encode() for n in range(len(values))]
                for n, value in enumerate(values):
                    group[f"w{n}"] = np.asarray(value, np.float32)
    return folder / "net.json"


def refusal(file):
    with pytest.raises(DeepsegError) as error:
        GraphNetwork(read_keras(file))
    return str(error.value).replace(f"{file.parent}/", "")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        pytest.param("unet", "unet.keras", id="a 3D U-Net in the format of Keras 3"),
        pytest.param("short", "short.json", id="JSON, weights of Keras 3 beside it"),
        pytest.param("short", "short.weights.h5", id="the weights, JSON beside them"),
        pytest.param("deep", "deep.h5", id="a whole model in HDF5"),
        pytest.param("zoo", "zoo.keras", id="all other layers, branches, a network within"),
    ],
)
def test_keras_computes_the_same(name, file):
    outputs = computed(read_keras(FILES / file), RESULTS[f"{name}.image"])
    assert len(outputs) == (2 if name == "zoo" else 1)
    for number, output in enumerate(outputs):
        expected = RESULTS[f"{name}.output{number}"]
        assert output.shape == expected.shape
        assert np.abs(output - expected).max() <= 1e-5


def test_a_strided_layer_pads_as_tensorflow_does(tmp_path):
    """Of six voxels, stride 2 sees 0-2, 2-4 and 4-5; torch would begin before the first."""
    conv = layer(
        "Conv3D", "c", "image", filters=1, kernel_size=[3, 1, 1], strides=[2, 1, 1],
        padding="same", use_bias=False,
    )  # fmt: skip
    file = chain(tmp_path, conv, arrays={"c": [np.ones((3, 1, 1, 1, 1))]})
    image = np.array([1, 10, 100, 1000, 1e4, 1e5], np.float32).reshape(1, 6, 1, 1, 1)
    assert computed(read_keras(file), image)[0].ravel().tolist() == [111, 11100, 110000]


def test_a_pooled_border_counts_no_zeros(tmp_path):
    pool = layer(
        "AveragePooling3D", "p", "image", pool_size=[3, 1, 1], strides=[1, 1, 1], padding="same"
    )
    file = chain(tmp_path, pool, arrays={})
    image = np.array([2, 4, 9], np.float32).reshape(1, 3, 1, 1, 1)
    assert computed(read_keras(file), image)[0].ravel().tolist() == [3, 5, 6.5]


def test_only_the_size_of_the_image_is_stated_and_others_are_computed():
    """A network of convolutions, rmldnn's first case: nothing depends on the size of the image."""
    graph = read_keras(FILES / "short.json")
    assert graph.inputs[0].shape == (None, 1, 6, 6, 6)
    geometry = graph_geometry(GraphNetwork(graph).program)
    assert geometry.sizes.smallest == (1, 1, 1)
    assert geometry.sizes.step == (1, 1, 1)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["image", "c"], 1 + 1 + 2),
        (["image", "image"], 2),
    ],
)
def test_layers_of_a_list_are_joined_by_their_names(tmp_path, names, expected):
    conv = layer("Conv3D", "c", "image", filters=1, kernel_size=1, activation="linear")
    join = layer("Add", "sum", *names)
    layers = (conv, join) if "c" in names else (join,)
    file = chain(tmp_path, *layers, arrays={"c": [np.full((1, 1, 1, 1, 1), 2), [1]]})
    assert computed(read_keras(file), np.ones((1, 2, 2, 2, 1), np.float32))[0].max() == expected


def test_a_lambda_is_never_run_and_can_be_cut_off(tmp_path, monkeypatch):
    code = {"class_name": "__lambda__", "config": {"code": "4wEAAAAA", "defaults": None}}
    conv = layer("Conv3D", "c", "image", filters=1, kernel_size=1, use_bias=False)
    ending = layer("Lambda", "surprise", "c", function=code)
    arrays = {"c": [np.full((1, 1, 1, 1, 1), 3)]}
    file = chain(tmp_path, conv, ending, arrays=arrays)
    monkeypatch.setattr("marshal.loads", lambda *_: pytest.fail("code was unpacked"))
    assert refusal(file) == (
        "[graph-operator] got Keras.Lambda at 'surprise'; expected operators that deepseg can "
        "train; fix: cut the network in front of it, or export it without"
    )
    network = GraphNetwork(read_keras(file), outputs=["c"])
    assert network(torch.ones(1, 1, 1, 1, 1))[0].item() == 3


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        pytest.param(
            layer("Conv3D", "x", "image", filters=1, kernel_size=3, padding="causal"),
            "Keras.Conv3D with padding causal at 'x'",
            id="a setting",
        ),
        pytest.param(
            {**layer("Conv3D", "x", "image"), "registered_name": "Mine>Conv3D", "module": None},
            "Keras.Conv3D with code of its own, which is never run at 'x'",
            id="a class of somebody else with the name of one of Keras",
        ),
        pytest.param(
            {**layer("Conv3D", "x", "image"), "module": "my_layers"},
            "Keras.Conv3D with code of its own, which is never run at 'x'",
            id="a class of another module",
        ),
        pytest.param(
            {
                **layer("Add", "x"),
                "module": "keras.src.ops.numpy",
                "inbound_nodes": [
                    {
                        "args": [
                            {
                                "class_name": "__keras_tensor__",
                                "config": {"keras_history": ["image", 0, 0]},
                            },
                            2.0,
                        ],
                        "kwargs": {},
                    }
                ],
            },
            "Keras.Add with the value 2.0 among its inputs at 'x'",
            id="a constant in the code of the network",
        ),
        pytest.param(
            layer("Dense", "x", "image", units=2, activation={"config": "mine"}),
            "Keras.Dense with activation mine at 'x'",
            id="a function of somebody else",
        ),
        pytest.param(
            layer("PReLU", "x", "image", shared_axes=None),
            "Keras.PReLU with a result that depends on the size of the image at 'x'",
            id="a slope for every voxel",
        ),
        pytest.param(
            layer("Conv2D", "x", "image", filters=1, kernel_size=3), "Keras.Conv2D at 'x'", id="2D"
        ),
    ],
)  # fmt: skip
def test_other_layers_are_refused_by_name_and_class(tmp_path, entry, words):
    file = chain(tmp_path, entry)
    with pytest.raises(DeepsegError) as error:
        GraphNetwork(read_keras(file, needs_weights=False))
    assert error.value.problems[0].got == words


def test_a_layer_of_fixed_size_is_told_by_the_size_of_its_image(tmp_path):
    """rmldnn's second case: what a flattened image feeds fits one size only."""
    layers = layer("Flatten", "flat", "image"), layer("Dense", "dense", "flat", units=2)
    file = chain(tmp_path, *layers, size=(2, 2, 2), arrays={"dense": [np.ones((8, 2)), [0, 0]]})
    graph = read_keras(file)
    assert computed(graph, np.ones((1, 2, 2, 2, 1), np.float32))[0].tolist() == [[8, 8]]
    with pytest.raises(DeepsegError) as error:
        graph_geometry(GraphNetwork(graph).program)
    assert error.value.problems[0].code == "graph-geometry"


def test_the_documents_json_says_where_its_comma_is_missing(tmp_path):
    (tmp_path / "net.json").write_text(
        '{"class_name": "InputLayer",\n "config": {\n  "dtype": "float32"\n  "name": "input_1"}}'
    )
    assert refusal(tmp_path / "net.json") == (
        "[keras-damaged] net.json:4: got Expecting ',' delimiter in column 3; expected JSON; "
        "fix: add the comma at the end of line 3"
    )


def test_weights_that_belong_to_another_network_are_refused(tmp_path):
    conv = layer("Conv3D", "c", "image", filters=2, kernel_size=3, use_bias=False)
    file = chain(tmp_path, conv, arrays={"c": [np.zeros((3, 3, 3, 1, 4))]})
    assert refusal(file) == (
        "[keras-weights] net.json: got c.weight of shape (3, 3, 3, 1, 4); expected (3, 3, 3, 1, 2),"
        " as Conv3D 'c' describes it; fix: give the weights that belong to this description"
    )
    chain(tmp_path, conv, arrays={"c": [np.zeros((3, 3, 3, 1, 2)), [0, 0]]})
    assert "got 2 weights of Conv3D 'c'; expected 1;" in refusal(file)
    chain(tmp_path, conv, arrays={"c": []})
    assert "got 0 weights of Conv3D 'c', none for c.weight;" in refusal(file)


def test_a_description_alone_gives_the_topology_only(tmp_path):
    conv = layer("Conv3D", "c", "image", filters=2, kernel_size=3)
    file = chain(tmp_path, conv)
    assert refusal(file).startswith("[keras-refused] net.json: got a description without weights;")
    graph = read_keras(file, needs_weights=False)
    assert graph.weights["c.weight"].shape == (2, 1, 3, 3, 3)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(
            lambda file: file.__setitem__("c/link", h5py.ExternalLink("/etc/passwd", "/x")),
            "'c/link', a link to elsewhere",
            id="another file",
        ),
        pytest.param(
            lambda file: file.__setitem__("c/link", h5py.SoftLink("/c/w0")),
            "'c/link', a link to elsewhere",
            id="another path",
        ),
        pytest.param(
            lambda file: file.__setitem__("c/c", file["c"]),
            "groups that hold each other",
            id="a circle",
        ),
        pytest.param(
            lambda file: file.create_dataset("c/huge", (1 << 40,), "f4", chunks=(1 << 20,)),
            f"'c/huge' of shape ({1 << 40},)",
            id="more than the file can hold",
        ),
        pytest.param(
            lambda file: file.create_dataset("c/far", (4,), "u1", external=[("/etc/passwd", 0, 4)]),
            "'c/far', whose values lie in another file",
            id="values elsewhere",
        ),
    ],
)
def test_nothing_outside_the_file_is_read(tmp_path, spoil, words):
    conv = layer("Conv3D", "c", "image", filters=1, kernel_size=1, use_bias=False)
    file = chain(tmp_path, conv, arrays={"c": [np.zeros((1, 1, 1, 1, 1))]})
    with h5py.File(tmp_path / "net.h5", "a") as weights:
        spoil(weights)
    message = refusal(file)
    assert message.startswith("[keras-refused] net.h5: got ")
    assert words in message


def test_files_that_are_cut_off_are_damaged(tmp_path):
    content = (FILES / "unet.keras").read_bytes()
    for length in (0, 3, 1000, len(content) - 30):
        (tmp_path / "net.keras").write_bytes(content[:length])
        assert refusal(tmp_path / "net.keras").startswith("[keras-damaged] net.keras: got ")
    content = (FILES / "deep.h5").read_bytes()
    for length in (9, 2000, len(content) - 3000):
        (tmp_path / "net.h5").write_bytes(content[:length])
        assert refusal(tmp_path / "net.h5").startswith("[keras-damaged] net.h5: got ")


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * 4_000_000)
        archive.writestr("model.weights.h5", b"")
    assert "got config.json of 4000000 bytes;" in refusal(tmp_path / "net.keras")


def test_a_missing_package_or_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "net.keras").write_bytes((FILES / "unet.keras").read_bytes())
    assert refusal(tmp_path / "nett.keras") == (
        "[keras-missing] nett.keras: got no such file; expected a file of Keras; fix: correct the "
        "path; did you mean 'net.keras'?"
    )
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert refusal(tmp_path / "net.keras") == (
        "[keras-extra-missing] net.keras: got no package h5py; expected the package, to read "
        "weights of Keras; fix: pip install 'deepseg-pathways[keras]'"
    )


def test_channels_may_come_first(tmp_path):
    conv = layer(
        "Conv3D", "c", "image", filters=1, kernel_size=1, use_bias=False,
        data_format="channels_first",
    )  # fmt: skip
    file = chain(tmp_path, conv, arrays={"c": [np.array([2, 3]).reshape(1, 1, 1, 2, 1)]})
    image = json.loads(file.read_text())
    image[0]["config"]["batch_input_shape"] = [None, 2, None, None, None]
    file.write_text(json.dumps(image))
    y = GraphNetwork(read_keras(file))(torch.tensor([1.0, 10]).view(1, 2, 1, 1, 1))[0]
    assert y.item() == 32


def test_layers_that_wait_for_each_other_are_refused(tmp_path):
    layers = layer("ReLU", "a", "b"), layer("ReLU", "b", "a")
    file = chain(tmp_path, *layers, arrays={})
    assert "got layer 'a', which waits for no other layer;" in refusal(file)
