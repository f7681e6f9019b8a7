"""Measuring on the device that the code is for: which kernels to use."""
