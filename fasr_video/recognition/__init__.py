"""From a face in a frame to something that can be compared: alignment, embedders and the Feature Combiner."""
