"""From prompt to pixels: E-MMDiT, its text encoder, its autoencoder and the engine that runs them."""
