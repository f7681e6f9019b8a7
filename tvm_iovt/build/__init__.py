"""From a network and a target to a shared library."""
