"""How scales of single channels move through a graph, and what noise they leave."""
