"""What blocks are made of: states, norms, positions, window attention, gated pooling, embeddings, the loss."""
