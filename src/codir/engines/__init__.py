"""Models in the formats people deploy: exporting a classifier, the folder it lies in, and the engines that run it."""
