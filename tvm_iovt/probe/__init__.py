"""`targets probe`: what predictions rest on, measured on the device itself."""
