"""The messages between QuPath, the command line and the server, and bytes from and to them."""
