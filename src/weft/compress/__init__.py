"""What is done with a trained model to make another of it: each a function from model to model, and a command."""
