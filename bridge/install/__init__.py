"""The scripts put into a QuPath, and taken out again."""
