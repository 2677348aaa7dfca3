"""ONNX files: what is in them comes out; damaged and malicious ones are refused in one line."""

import builtins

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from deepseg.errors import DeepsegError
from deepseg.transfer.sources import onnx_file
from deepseg.transfer.sources.graph_files import notices_of_graph_file
from deepseg.transfer.sources.onnx_file import is_onnx_file, read_onnx, read_onnx_weights
from tests.onnx_models import export, model, trained, write

KERNEL = np.arange(54, dtype=np.float32).reshape(2, 1, 3, 3, 3)
SHAPE = {"x": ["n", 1, None, 7, "z"]}


def conv(**settings):
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", **settings)
    return model([node], SHAPE, weights={"w": KERNEL})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def refusal(file) -> str:
    with pytest.raises(DeepsegError) as error:
        read_onnx(file)
    return str(error.value).replace(f"{file.parent}/", "")


def test_nodes_weights_and_inputs_are_read(folder):
    graph = read_onnx(write(folder / "m.onnx", conv(strides=[2, 1, 1], auto_pad="SAME_UPPER")))
    (node,) = graph.nodes
    assert (node.operator, node.inputs, node.outputs) == ("Conv", ("x", "w"), ("y",))
    assert node.name == "conv"
    assert node.attributes == {"strides": (2, 1, 1), "auto_pad": "SAME_UPPER"}
    assert graph.inputs[0].name == "x"
    assert graph.inputs[0].shape == (None, 1, None, 7, None)
    assert graph.outputs == ("y",)
    assert graph.opset == 17
    assert graph.weights["w"].equal(torch.from_numpy(KERNEL))


def test_a_weight_among_the_inputs_is_no_input(folder):
    proto = conv()
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, KERNEL.shape))
    assert [i.name for i in read_onnx(write(folder / "m.onnx", proto)).inputs] == ["x"]


NUMBERS = [1, 2, 3]
TYPES = {
    "float32": (TensorProto.FLOAT, torch.float32),
    "float64": (TensorProto.DOUBLE, torch.float32),
    "float16": (TensorProto.FLOAT16, torch.float32),
    "bfloat16": (TensorProto.BFLOAT16, torch.float32),
    "int64": (TensorProto.INT64, torch.int64),
    "int32": (TensorProto.INT32, torch.int32),
    "int16": (TensorProto.INT16, torch.int16),
    "int8": (TensorProto.INT8, torch.int8),
    "uint8": (TensorProto.UINT8, torch.uint8),
    "bool": (TensorProto.BOOL, torch.bool),
}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("is_raw", [True, False])
def test_every_type_of_number_is_read(name, is_raw, folder):
    code, dtype = TYPES[name]
    proto = model([helper.make_node("Add", ["x", "w"], ["y"])], {"x": [3]})
    if is_raw:
        bits = torch.tensor(NUMBERS).to(getattr(torch, name))
        bits = bits.view(torch.int16) if name == "bfloat16" else bits
        values = bits.numpy().tobytes()
    else:
        values = NUMBERS
    proto.graph.initializer.append(helper.make_tensor("w", code, [3], values, raw=is_raw))
    value = read_onnx(write(folder / "m.onnx", proto)).weights["w"]
    assert value.dtype == dtype
    assert value.tolist() == ([True] * 3 if name == "bool" else NUMBERS)


def test_constants_are_read_in_every_form(folder):
    forms = {
        "value": numpy_helper.from_array(np.array([1.5], np.float32)), "value_float": 2.5,
        "value_int": 3, "value_floats": [4.5, 5.5], "value_ints": [6, 7],
    }  # fmt: skip
    nodes = [helper.make_node("Constant", [], [key], **{key: form}) for key, form in forms.items()]
    nodes.append(helper.make_node("Sum", ["x", *forms], ["y"]))
    graph = read_onnx(write(folder / "m.onnx", model(nodes, {"x": [2]})))
    values = {name: value.tolist() for name, value in graph.constants.items()}
    assert values == {
        "value": [1.5], "value_float": 2.5, "value_int": 3, "value_floats": [4.5, 5.5],
        "value_ints": [6, 7],
    }  # fmt: skip
    assert [node.operator for node in graph.nodes] == ["Sum"]
    assert graph.weights == {}


def test_copies_of_equal_weights_get_names_and_values_of_their_own(folder):
    nodes = [
        helper.make_node("Identity", ["norm1.weight"], ["norm2.weight"]),
        helper.make_node("Mul", ["x", "norm1.weight"], ["a"]),
        helper.make_node("Mul", ["a", "norm2.weight"], ["y"]),
    ]
    proto = model(nodes, {"x": [2]}, weights={"norm1.weight": np.ones(2, np.float32)})
    weights = read_onnx_weights(write(folder / "m.onnx", proto))
    assert list(weights) == ["norm1.weight", "norm2.weight"]
    weights["norm1.weight"] += 1
    assert weights["norm2.weight"].tolist() == [1, 1]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_nodes_know_the_modules_that_torch_names(exporter, folder):
    file = export(trained("unet"), torch.zeros(1, 2, 8, 8, 8), folder / "m.onnx", exporter)
    scopes = [node.scope for node in read_onnx(file).nodes if node.operator == "LeakyRelu"]
    assert scopes == ["encoder.0.2", "encoder.1.2", "encoder.2.2", "decoder.0.2", "decoder.1.2"]


def test_norms_that_the_exporter_has_folded_are_told(folder):
    """Nodes carry the rule by which torch's exporter has made them of two."""
    proto = conv()
    plain = write(folder / "plain.onnx", proto)
    proto.graph.node[0].metadata_props.add(
        key="pkg.onnxscript.rewriter.rule_name", value="FuseBatchNormIntoConv"
    )
    folded = write(folder / "folded.onnx", proto)
    assert notices_of_graph_file(plain) == ()
    assert notices_of_graph_file(folded) == (
        "1 batch normalisation was folded into convolutions by the exporter, with weights that are "
        "in no file; torch.onnx.export(…, optimize=False) keeps them",
    )


@pytest.mark.parametrize(
    ("name", "expected"), [("m.onnx", True), ("M.ONNX", True), ("m.pt", False)]
)
def test_a_file_is_known_by_its_name(name, expected, folder):
    assert is_onnx_file(folder / name) == expected


def beside(folder, **entries):
    """A file whose kernel lies in another one; ``entries`` say where."""
    proto = conv()
    (tensor,) = proto.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "m.data", **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return write(folder / "m.onnx", proto)


def test_weights_beside_the_file_are_read(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "m.data").write_bytes(b"1234" + KERNEL.tobytes())
    file = beside(folder, location="sub/m.data", offset=4, length=KERNEL.nbytes)
    assert read_onnx(file).weights["w"].equal(torch.from_numpy(KERNEL))


AWAY = (
    "expected a file in that folder or below; fix: move both into one folder and export again; "
    "do not trust this file"
)


@pytest.mark.parametrize("location", ["../secret", "sub/../../secret", "", "link"])
def test_weights_outside_the_folder_are_refused(location, folder):
    (folder.parent / "secret").write_bytes(KERNEL.tobytes())
    (folder / "link").symlink_to("../secret")
    assert refusal(beside(folder, location=location)) == (
        f"[onnx-external-data] m.onnx: got weights in {location!r}, outside the folder of the ONNX "
        f"file; {AWAY}"
    )


def test_an_absolute_path_is_refused(folder):
    (folder / "m.data").write_bytes(KERNEL.tobytes())
    text = refusal(beside(folder, location=folder / "m.data"))
    assert text.endswith(f"outside the folder of the ONNX file; {AWAY}")


@pytest.mark.parametrize(
    ("entries", "size", "message"),
    [
        pytest.param(
            {}, None,
            "no file 'm.data', which holds 'w'; expected the file beside the ONNX file; "
            "fix: copy it there",
            id="missing",
        ),
        pytest.param(
            {"offset": 8}, 216,
            "216 bytes in 'm.data', but 'w' up to byte 224; expected the whole file; "
            "fix: copy it again",
            id="short",
        ),
        pytest.param(
            {"length": 200}, 300,
            "tensor 'w' at byte 0 of length 200; expected 216 bytes for its shape; "
            "fix: export the network again",
            id="length",
        ),
        pytest.param(
            {"offset": -4}, 300,
            "tensor 'w' at byte -4 of length unknown; expected 216 bytes for its shape; "
            "fix: export the network again",
            id="offset",
        ),
    ],
)  # fmt: skip
def test_weights_that_are_not_all_there_are_refused(entries, size, message, folder):
    if size is not None:
        (folder / "m.data").write_bytes(b"1" * size)
    assert refusal(beside(folder, **entries)) == f"[onnx-external-data] m.onnx: got {message}"


def test_a_tensor_larger_than_the_machine_is_refused_before_it_is_read(folder):
    proto = conv()
    proto.graph.initializer[0].dims[:] = [1 << 20, 1 << 20, 3, 3, 3]
    assert refusal(write(folder / "m.onnx", proto)) == (
        f"[onnx-damaged] m.onnx: got 54 values of tensor 'w', whose shape has {27 << 40}; "
        "expected a whole ONNX file; fix: copy the file again"
    )


def test_every_cut_file_is_refused_or_read_whole(folder):
    content = conv().SerializeToString()
    file = folder / "m.onnx"
    for size in range(len(content)):
        file.write_bytes(content[:size])
        places, shapes = [], []
        try:
            shapes = [read_onnx(file).weights["w"].shape]
        except DeepsegError as error:
            places = [problem.where for problem in error.problems]
        assert (places, shapes) in (([str(file)], []), ([], [KERNEL.shape]))


@pytest.mark.parametrize(
    ("content", "got"),
    [
        pytest.param(b"", "no nodes or no outputs", id="empty"),
        pytest.param(b"PK\x03\x04 not a graph", "content that cannot be parsed", id="garbled"),
    ],
)
def test_a_file_that_is_no_network_is_refused(content, got, folder):
    (folder / "m.onnx").write_bytes(content)
    assert refusal(folder / "m.onnx") == (
        f"[onnx-damaged] m.onnx: got {got}; expected a whole ONNX file; fix: copy the file again"
    )


def test_a_file_of_more_than_two_gigabytes_is_refused_unread(folder):
    with (folder / "m.onnx").open("wb") as stream:
        stream.truncate(1 << 31)
    assert refusal(folder / "m.onnx") == (
        "[onnx-refused] m.onnx: got 2147483648 bytes; expected at most 2 GiB, which is all that "
        "such a file can hold; fix: export the network with its weights beside it "
        "(external_data=True)"
    )


def test_a_file_that_is_not_there_is_refused_with_the_nearest(folder):
    write(folder / "model.onnx", conv())
    assert refusal(folder / "modle.onnx") == (
        "[onnx-missing] modle.onnx: got no such file; expected an ONNX file; fix: correct the "
        "path; did you mean 'model.onnx'?"
    )


def test_numbers_of_an_unusual_type_are_refused(folder):
    proto = conv()
    proto.graph.initializer.append(helper.make_tensor("c", TensorProto.COMPLEX64, [1], [1j]))
    assert refusal(write(folder / "m.onnx", proto)).startswith(
        "[onnx-refused] m.onnx: got tensor 'c' of type complex64; expected one of float32, "
    )


def test_sparse_weights_are_refused(folder):
    proto = conv()
    proto.graph.sparse_initializer.add()
    assert refusal(write(folder / "m.onnx", proto)).startswith(
        "[onnx-refused] m.onnx: got sparse weights; expected dense ones;"
    )


def test_a_cycle_is_refused_with_the_file(folder):
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="one"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    assert refusal(write(folder / "m.onnx", model(nodes, {"x": [1]}))).startswith(
        "[graph-cycle] m.onnx: got 3 nodes that wait for each other, among them Add 'one';"
    )


def test_a_missing_package_is_named(folder, monkeypatch):
    file = write(folder / "m.onnx", conv())
    real = builtins.__import__

    def without_onnx(name, *arguments, **settings):
        if name == "onnx":
            raise ImportError(name)
        return real(name, *arguments, **settings)

    monkeypatch.setattr(builtins, "__import__", without_onnx)
    assert refusal(file) == (
        "[onnx-extra-missing] m.onnx: got no package onnx; expected the package, to read this "
        "file; fix: pip install 'deepseg-pathways[onnx]'"
    )


def test_the_numbers_of_the_format_are_those_of_the_package():
    types = {name: code for code, (name, _) in onnx_file._TYPES.items()}
    words = {"float32": "float", "float64": "double"}
    for name, code in types.items():
        assert onnx.TensorProto.DataType.Value(words.get(name, name).upper()) == code
    assert onnx.AttributeProto.TENSOR == onnx_file._TENSOR
