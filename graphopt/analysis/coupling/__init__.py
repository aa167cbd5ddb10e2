"""Which channels can only be removed together: dependency groups over the whole graph."""
