"""From a network and a case to a segmentation and its scores."""
