"""Which precision each part of a graph gets: regions, what they lose and cost, and the programs that choose."""
