"""Questions asked of a graph that change nothing: where precision borders go, which tensors share a scale."""
