"""Learning to weight noisily labelled images, on CIFAR (section 4.4 of the paper)."""
