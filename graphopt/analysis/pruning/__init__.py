"""How many channels of each group are removed, and which: importance, costs of sizes, and the programs that choose."""
