"""Networks in files of Keras, read without Keras or TensorFlow and without running anything."""
