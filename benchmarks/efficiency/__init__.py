"""Do structured maps, sharing, latent bigrams and recurrent stacking pay at a small size? See docs/efficiency.md."""
