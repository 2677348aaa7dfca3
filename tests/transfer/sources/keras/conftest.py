"""The program that wrote the files beside it needs keras, which the tests do not."""

collect_ignore = ["files"]
