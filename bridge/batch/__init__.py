"""Many slides: run, resume, statistics, and the executor that scores them."""
