"""The executor of slides on a dask cluster."""
