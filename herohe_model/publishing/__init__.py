"""Models given away and taken: terms, the published folder with its page, and how it is fetched."""
