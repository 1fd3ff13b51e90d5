"""Vendors' HTTP interfaces on real sockets: a server that writes exactly what a test says, and each vendor's format."""
