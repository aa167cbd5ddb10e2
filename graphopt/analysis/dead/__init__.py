"""What a graph computes and nothing needs: constant channels, and channels that nothing hears."""
