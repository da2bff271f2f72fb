"""gnnscale: train, compress, measure and compare efficient graph neural networks."""

__version__ = "0.1.0"
