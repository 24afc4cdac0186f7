"""What people train, with random weights: tables of what the library does on it.

Needs more than the library does: torchvision, timm, transformers, and the tools it is compared with.
"""
