"""Do structured maps, sharing, latent bigrams and recurrent stacking pay? See docs/research/efficiency-method.md."""
