"""Groovy scripts that run inside QuPath, shipped as package data."""
