"""The version of deepseg, in one place."""

VERSION = "0.1.0"
