"""The built-in step kinds, one module each."""
