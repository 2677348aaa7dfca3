"""Writes the Keras files beside it, and what Keras computes; needs keras and tensorflow, once.

python write_keras_files.py
"""

import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
from keras import layers

HERE = Path(__file__).parent


def unet():
    """Two levels, strides on even and odd sizes, normalisations, a softmax over three classes."""
    image = layers.Input((None, None, None, 2), name="image")
    x = layers.Conv3D(4, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.BatchNormalization(name="stem_norm")(x)
    skip = layers.ReLU(name="stem_act")(x)
    x = layers.Conv3D(6, 3, strides=2, padding="same", name="down")(skip)
    x = layers.GroupNormalization(groups=3, name="down_norm")(x)
    x = layers.PReLU(shared_axes=[1, 2, 3], name="down_act")(x)
    x = layers.Conv3D(6, (3, 3, 1), padding="same", activation="gelu", name="bottom")(x)
    x = layers.Conv3DTranspose(4, 3, strides=2, padding="same", name="up")(x)
    x = layers.Concatenate(name="join")([skip, x])
    x = layers.Conv3D(4, 3, padding="same", activation="leaky_relu", name="fine")(x)
    x = layers.Dropout(0.3, name="drop")(x)
    y = layers.Dense(3, activation="softmax", name="classifier")(x)
    return keras.Model(image, y, name="unet")


def sequential(blocks):
    """Convolution and pooling, as often as asked, and a convolution for the classes."""
    model = keras.Sequential([layers.Input((6, 6, 6, 1))], name=f"blocks_{blocks}")
    for number in range(blocks):
        model.add(
            layers.Conv3D(5, 3, padding="same", activation="relu", name=f"conv_{blocks}{number}")
        )
        model.add(layers.MaxPooling3D(2, strides=1, padding="same"))
    model.add(layers.Conv3D(2, 1, name=f"classes_{blocks}"))
    return model


def zoo():
    """Every other layer that is read: branches, a network within, a layer that is used twice."""
    image = layers.Input((None, None, None, 2), name="image")
    twice = layers.Conv3D(2, (1, 3, 3), padding="same", name="twice")
    inner = keras.Sequential(
        [layers.Input((None, None, None, 2)), layers.Conv3D(2, 3, padding="same"), layers.ELU(0.7)],
        name="inner",
    )
    a = layers.AveragePooling3D(3, strides=2, padding="same")(image)
    a = layers.Conv3DTranspose(2, (1, 2, 4), strides=(2, 3, 2), padding="valid", name="wide")(a)
    a = layers.Cropping3D(((0, 0), (1, 5), (2, 0)))(a)
    a = layers.ZeroPadding3D(((1, 2), (2, 2), (0, 3)))(a)
    a = layers.Conv3D(2, 3, strides=(2, 1, 2), padding="same", name="strided")(a)
    b = twice(twice(inner(image)))
    b = layers.LayerNormalization(name="layer_norm")(b)
    b = layers.Conv3D(2, 3, dilation_rate=2, padding="same", activation="elu", name="dilated")(b)
    b = layers.GroupNormalization(groups=-1, name="instance_norm")(b)
    c = layers.Multiply()([b, layers.Activation("sigmoid")(image)])
    c = layers.Subtract()([c, layers.Maximum()([image, b])])
    c = layers.Average()([c, layers.Minimum()([image, b]), layers.Add()([b, image, c])])
    c = layers.LeakyReLU(0.2)(layers.SpatialDropout3D(0.2)(c))
    c = layers.UpSampling3D((2, 1, 3))(c)
    c = layers.Conv3D(4, 2, strides=2, groups=2, activation="silu", name="grouped")(c)
    c = layers.Softmax(name="soft")(layers.Rescaling(2.0, offset=-1.0)(c))
    pooled = layers.GlobalAveragePooling3D(keepdims=True)(c)
    c = layers.Multiply()([c, layers.Dense(4, activation="tanh", name="gate")(pooled)])
    return keras.Model(image, [a, c], name="zoo")


def shaken(model, seed):
    """The model with weights as after training: no zero biases, no statistics of no data."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        for weight in layer.weights if not hasattr(layer, "layers") else []:
            positive = "variance" in weight.name
            value = (
                rng.uniform(0.5, 2, weight.shape) if positive else rng.normal(0, 0.4, weight.shape)
            )
            if not weight.name.startswith("seed"):
                weight.assign(value.astype(np.float32))
    return model


def compressed(file):
    """A ``.keras`` as small as a zip makes it; Keras leaves it as it is."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def main():
    results = {}
    for name, model, size in (
        ("unet", unet(), (6, 8, 4)),
        ("short", sequential(1), (6, 6, 6)),
        ("deep", sequential(2), (6, 6, 6)),
        ("zoo", zoo(), (7, 6, 5)),
    ):
        shaken(model, seed=len(name))
        image = np.random.default_rng(3).normal(size=(1, *size, model.input_shape[-1]))
        image = image.astype(np.float32)
        outputs = model(image, training=False)
        results[f"{name}.image"] = image.astype(np.float32)
        for number, output in enumerate(outputs if isinstance(outputs, list) else [outputs]):
            results[f"{name}.output{number}"] = np.asarray(output)
        if name == "short":
            (HERE / "short.json").write_text(model.to_json())
            model.save_weights(HERE / "short.weights.h5")
        elif name == "deep":
            model.save(HERE / "deep.h5")
        else:
            model.save(HERE / f"{name}.keras")
            compressed(HERE / f"{name}.keras")
    np.savez_compressed(HERE / "results.npz", **results)


if __name__ == "__main__":
    sys.exit(main())
