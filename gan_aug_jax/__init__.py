"""Generative data augmentation for image classifiers, fused into the training step."""

__version__ = '0.1.0'
