"""Kernels in Triton: each file holds one, its launch, and the plain function that it equals."""
