"""From a face in a frame to something that can be compared: alignment, and (to come) embedders and the combiner."""
