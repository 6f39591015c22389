"""From a face in a frame to a feature that can be compared: alignment, embedders, combiner."""
