"""Files and grids: images, labels and masks in and out."""
