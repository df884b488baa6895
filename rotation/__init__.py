"""Learning to rotate the training images, on MNIST (section 4.2 of the paper)."""
